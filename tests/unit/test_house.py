"""The house stays as it was agreed: one word for each thing, no long files, no long functions."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
LONGEST_FILE = 450
LONGEST_FUNCTION = 60
"""In lines, the signature and the docstring included."""
AREAS = ("aggregator", "chaincode", "clients", "fabric", "network", "protocol")
FOR_TESTS_OF_USERS = Path("fabric/blockfl/fabric/testing")
"""A package apart, for tests of contracts: a network and organisations that live as long as a test."""


def find_places() -> dict[str, list[str]]:
    """Return, for each public class name, the files that define one."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for area in AREAS:
        for file in sorted((ROOT / area).rglob("*.py")):
            relative = file.relative_to(ROOT)
            if FOR_TESTS_OF_USERS in relative.parents:
                continue
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(relative))
    return places


def test_a_class_name_has_one_meaning() -> None:
    places = find_places()
    assert places["Round"] == ["protocol/blockfl/protocol/records.py"]
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def list_files() -> list[Path]:
    """Return every file of the product, its tests and its benchmarks."""
    areas = (*AREAS, "benchmarks", "examples", "tests")
    return [file for area in areas for file in sorted((ROOT / area).rglob("*.py"))]


def find_long_functions(file: Path, limit: int) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > limit:
                yield f"{file.relative_to(ROOT)}: {node.name} has {lines} lines"


def test_no_file_and_no_function_is_long() -> None:
    files = list_files()
    assert Path(__file__) in files
    assert [
        f"{file.relative_to(ROOT)}: {count} lines"
        for file in files
        if (count := len(file.read_text().splitlines())) > LONGEST_FILE
    ] == []
    assert [text for file in files for text in find_long_functions(file, LONGEST_FUNCTION)] == []
    assert list(find_long_functions(ROOT / "protocol" / "blockfl" / "protocol" / "round.py", 50)) != []
