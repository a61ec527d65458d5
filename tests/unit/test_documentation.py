"""The documentation is true where a program can tell: codes, transactions, records, commands, links."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from typer.main import get_command

from blockfl.cli.main import app
from blockfl.protocol.aggregation import RULES
from blockfl.protocol.codes import Code
from blockfl.protocol.economics import DEFAULT_ECONOMICS
from blockfl.protocol.optimiser import OPTIMISERS
from blockfl.protocol.rules import JUDGING
from support.documentation import (
    PROTOCOL,
    ROOT,
    TABLES,
    list_anchors,
    list_commands,
    list_links,
    list_pages,
    list_quoted,
    mark,
    read_table,
    render_codes,
    with_tables,
)

PAGES = list_pages()


README = ROOT / "README.md"


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# The tables of rules and codes


def test_the_tables_are_current() -> None:
    text = PROTOCOL.read_text()
    assert with_tables(text) == text, "write them anew: make docs"


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_not_current_is_written_anew(name: str) -> None:
    text = PROTOCOL.read_text()
    begin, end = mark(name)
    assert text.count("\n", text.index(begin), text.index(end)) > 10
    stale = text[: text.index(begin) + len(begin)] + "\n| BFL999 |\n" + text[text.index(end) :]
    assert with_tables(stale) == text


def test_the_rendered_table_has_a_row_for_every_code() -> None:
    rows = render_codes().splitlines()[2:]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [code.identifier for code in Code]
    assert all(code.meaning in row and f"`{code.name}`" in row for code, row in zip(Code, rows, strict=True))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("which", [0, 1])
def test_a_page_without_both_markers_of_a_table_is_refused(name: str, which: int) -> None:
    text, marker = PROTOCOL.read_text(), mark(name)[which]
    for wrong in (text.replace(marker, ""), f"{text}\n{marker}\n"):
        with pytest.raises(ValueError, match=rf"{name}.*once each"):
            with_tables(wrong)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_page_names_a_code_that_there_is_not(path: Path) -> None:
    known = {code.identifier for code in Code}
    assert set(re.findall(r"BFL\d{3}", path.read_text())) <= known


# Rules


@pytest.mark.parametrize(("heading", "known"), [("Aggregation", RULES), ("Optimisers", OPTIMISERS)])
def test_the_page_has_every_rule_and_optimiser_with_its_parameters(
    heading: str, known: Mapping[str, type[BaseModel]]
) -> None:
    rows = {list_quoted(row[0])[0]: row for row in read_table(PROTOCOL.read_text(), heading)}
    assert rows.keys() == known.keys()
    section = PROTOCOL.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for name, kind in known.items():
        place = rows[name][1] if heading == "Aggregation" else section
        assert {*kind.model_fields} - {"rule", "method"} <= {*list_quoted(place)}, name


# Economics


def test_the_page_about_economics_gives_the_defaults() -> None:
    text = (ROOT / "docs" / "economics.md").read_text()
    defaults = text.partition("\n## Defaults\n")[2].partition("\n## ")[0]
    told = {name: int(number.replace(" ", "")) for name, number in re.findall(r"`(\w+)` ([\d ]*\d)", defaults)}
    rows = read_table(text, "Penalties")
    told |= {list_quoted(row[2])[0]: int(row[1].split(",")[0]) for row in rows}
    assert told == DEFAULT_ECONOMICS.model_dump()


def test_the_page_about_economics_has_a_penalty_for_every_verdict() -> None:
    rows = read_table((ROOT / "docs" / "economics.md").read_text(), "Penalties")
    policies = {list_quoted(row[2])[0] for row in rows}
    assert policies == {"equivocation", "absence", *(rule.penalty for rule in JUDGING)}


# The two commands, and all others


def test_the_readme_names_the_two_commands_that_are_all_the_set_up() -> None:
    commands = list(list_commands(README.read_text()))
    assert commands.index("make demo") < commands.index("make test")


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_make_target_on_a_page_exists(path: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for command in list_commands(path.read_text()) for word in re.findall(r"\bmake ([a-z-]+)", command)}
    named |= set(re.findall(r"`(?:[A-Z_]+=\S+ )?make ([a-z-]+)", path.read_text()))
    assert named <= targets


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_blockfl_command_on_a_page_exists_with_its_options(path: Path) -> None:
    for command in list_commands(path.read_text()):
        for call in re.findall(r"(?<![\w./-])(?:\S*/)?blockfl ((?:[^;&|()<>])+)", command):
            check_call(shlex.split(call))


def check_call(words: list[str]) -> None:
    """Follow the words down to a command, and look up each option."""
    command: Any = get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if words == ["--version"]:
        return
    assert not hasattr(command, "commands"), f"{command.name} has no command {words[:1]}"
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= {*known, "--help"}, words


@pytest.mark.parametrize("words", [["network", "begin"], ["network"], ["network", "up", "--quick"]])
def test_the_look_at_commands_finds_what_it_looks_for(words: list[str]) -> None:
    with pytest.raises(AssertionError):
        check_call(words)


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_python_module_that_a_page_runs_exists(path: Path) -> None:
    for command in list_commands(path.read_text()):
        for module in re.findall(r"python -m ([\w.]+)", command):
            here = ROOT.joinpath(*module.split(".")).with_suffix(".py")
            under_tests = (ROOT / "tests").joinpath(*module.split(".")).with_suffix(".py")
            assert here.exists() or under_tests.exists() or importlib.util.find_spec(module), module


# Files and links


def list_texts(root: Path) -> Iterator[Path]:
    """The repository's files that are text; what tools and runs leave behind is not looked at."""
    for folder, folders, names in os.walk(root):
        folders[:] = [
            one for one in folders if one == ".ci" or not re.match(r"\.|build$|node_modules$|__pycache__$", one)
        ]
        yield from (path for path in sorted(Path(folder, one) for one in names) if b"\0" not in path.read_bytes())


def list_conflicts(root: Path) -> list[str]:
    """The lines that a merge left for somebody to decide: file and number."""
    marks = tuple(7 * sign.encode() + b" " for sign in "<>|")
    return [
        f"{path.relative_to(root)}:{number}"
        for path in list_texts(root)
        for number, line in enumerate(path.read_bytes().splitlines(), start=1)
        if line.startswith(marks)
    ]


def test_no_file_holds_a_merge_that_nobody_finished() -> None:
    assert list_conflicts(ROOT) == []
    assert ROOT / "docs" / "threat-model.md" in list_texts(ROOT)
    assert ROOT / ".ci" / "run" in list_texts(ROOT)


@pytest.mark.parametrize("sign", ["<", ">", "|"])
def test_an_unfinished_merge_is_found(tmp_path: Path, sign: str) -> None:
    (tmp_path / "page.md").write_text(f"one\n{7 * sign} HEAD\ntwo\n{6 * sign} three\n")
    (tmp_path / "picture").write_bytes(b"\0\n" + 7 * sign.encode() + b" no text")
    assert list_conflicts(tmp_path) == ["page.md:2"]


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_every_relative_link_leads_to_a_file_and_every_anchor_to_a_heading(path: Path) -> None:
    broken = []
    for target in list_links(path.read_text()):
        place, _, anchor = target.partition("#")
        found = (path.parent / place).resolve() if place else path
        if not found.exists() or (anchor and anchor not in list_anchors(found.read_text())):
            broken.append(target)
    assert broken == []


def test_links_in_code_are_not_links_and_images_are() -> None:
    text = '# A\n```\n[x](nowhere.md)\n```\n[y](b.md#c) ![z](d.svg) <img src="e.svg"> [w](https://example.org)\n'
    assert list_links(text) == ["b.md#c", "d.svg", "e.svg"]


def list_documented_modules(room: str) -> set[str]:
    """The modules and packages in the table of a room's README."""
    table = (ROOT / room / "README.md").read_text().split("\n|---|")[1].split("\n\n")[0]
    modules = [module for row in table.splitlines()[1:] for module in list_quoted(row.split(" | ")[0])]
    return {module.removeprefix("blockfl.").removesuffix(".py").rstrip("/") for module in modules}


@pytest.mark.parametrize(
    "place", ["protocol/protocol", "fabric/fabric", "network/network", "chaincode/contract", "clients"]
)
def test_a_rooms_table_has_its_modules_and_no_others(place: str) -> None:
    room, _, package = place.partition("/")
    entries = [path for path in (ROOT / room / "blockfl" / package).iterdir() if "__" not in path.name]
    modules = {path.stem for path in entries if path.is_dir() or path.suffix == ".py"} - {"errors"}
    assert modules, "nothing to compare with"
    assert list_documented_modules(room) - {"__main__", "errors"} == modules


def test_every_architecture_decision_has_context_choice_and_price() -> None:
    for path in sorted((ROOT / "docs" / "adr").glob("*.md")):
        if path.name == "README.md":
            continue
        parts = re.findall(r"^\*\*([A-Z][\w ]+)\.\*\*", path.read_text(), re.MULTILINE)
        order = [parts.index(part) for part in ("Context", "Choice", "Price")]
        assert all(one < other for one, other in pairwise(order)), path.name


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_no_page_names_a_place_of_one_machine(path: Path) -> None:
    assert not re.search(r"(?<![\w.])/(?:home|root|work|tmp)/", path.read_text())
