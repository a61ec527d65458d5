"""What the documentation says, taken apart, and the tables in it that are written by a program.

To write the tables of records, rules and codes and the transcripts anew: ``make docs``, which is ``PYTHONPATH=tests
python -m support.documentation``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from blockfl.protocol.catalogue import LISTINGS, RECORDS
from blockfl.protocol.codes import Code
from blockfl.protocol.key import RecordType
from blockfl.protocol.rules import JUDGING, SUBMISSION
from support.transcripts import write_transcripts

ROOT: Final = Path(__file__).parents[2]
PROTOCOL: Final = ROOT / "docs" / "protocol.md"
_FENCE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
_COMMANDS = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|<(?:img|source)[^>]*\b(?:src|srcset)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def list_pages(root: Path = ROOT) -> list[Path]:
    """Return every page of documentation, the recordings' own (which came with them) left out."""
    skipped = {"build", "recordings", "node_modules"}
    return sorted(
        path
        for path in root.rglob("*.md")
        if not any(part in skipped or part.startswith(".") for part in path.relative_to(root).parts)
    )


def render_codes() -> str:
    """Return the table of codes."""
    rows = [f"| {code.identifier} | `{code.name}` | {code.meaning} |" for code in Code]
    return "\n".join(["| code | name | meaning |", "|---|---|---|", *rows])


def render_submission() -> str:
    """Return the table of what the contract asks of a signed header, in the order in which it asks."""
    rows = [f"| {rule.code.identifier} | {rule.condition} |" for rule in SUBMISSION]
    return "\n".join(["| code | what must hold |", "|---|---|", *rows])


def render_judging() -> str:
    """Return the table of what the committee asks of an update, in the order in which it asks."""
    rows = [f"| {rule.code.identifier} | {rule.condition} | {rule.tells} | `{rule.penalty}` |" for rule in JUDGING]
    head = "| code | what must hold | what the verdict tells beside it | [penalty](economics.md#penalties) |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def render_records() -> str:
    """Return the table of the kinds of record: keys, what they hold, who endorses them, how they are read."""
    rows = [
        f"| `{_render_key(one)}` | {one.holds} | {one.needs} | {', '.join(_list_reads(one))} | "
        f"{one.missing.identifier if one.read and not one.absent else ''} |"
        for one in RECORDS.values()
    ]
    return "\n".join(["| key | holds | needs | read with | refusals |", "|---|---|---|---|---|", *rows])


def _render_key(of: RecordType[..., Any]) -> str:
    return "/".join([of.prefix, *(f"<{name.replace('_', ' ')}>" for name in of.parts.names)])


def _list_reads(of: RecordType[..., Any]) -> list[str]:
    reads = [(of.read, of.parts), *((one.read, one.parts) for one in LISTINGS if one.of is of)]
    return [f"`{name}({', '.join(parts.names)})`" for name, parts in reads if name]


TABLES: Final[dict[str, Callable[[], str]]] = {
    "records": render_records,
    "submission": render_submission,
    "judging": render_judging,
    "codes": render_codes,
}


def mark(name: str) -> tuple[str, str]:
    """Return the lines before and after a table."""
    return f"<!-- {name}: written by `make docs` -->", f"<!-- end of {name} -->"


def with_tables(text: str) -> str:
    """Return a page with each table between its markers.

    Raises:
        ValueError: The markers of one are not there, once each.
    """
    for name, render in TABLES.items():
        begin, end = mark(name)
        if text.count(begin) != 1 or text.count(end) != 1:
            raise ValueError(f"expected the lines {begin} and {end}, once each")
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{render()}\n{end}{rest.partition(end)[2]}"
    return text


def list_links(text: str) -> list[str]:
    """Return the targets of a page's links and images, but for those to other places of the web."""
    found = [first or second for first, second in _LINK.findall(_FENCE.sub("", text))]
    return [target for target in found if not re.match(r"[a-z]+:", target)]


def list_anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", text))
    words = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in words}


def list_commands(text: str) -> Iterator[str]:
    """Yield the commands of a page's ``sh`` blocks: continued lines joined, comments left out."""
    for block in _COMMANDS.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"(^|\s)#.*", "", line).strip()
            if command:
                yield re.sub(r"\s+", " ", command)


def read_table(text: str, heading: str) -> list[list[str]]:
    """Return the rows of the first table below a heading, cell by cell.

    Raises:
        ValueError: There is no such heading, or no table below it.
    """
    below = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("|")]
    if len(lines) < 3:
        raise ValueError(f"no table below the heading {heading}")
    first = [line for line in below[below.index(lines[0]) :].partition("\n\n")[0].splitlines() if line[0] == "|"]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in first[2:]]


def list_quoted(cell: str) -> list[str]:
    """Return what stands in backquotes in a table's cell."""
    return re.findall(r"`([^`]+)`", cell)


def main() -> None:
    """Write the tables into the page, and the transcripts."""
    PROTOCOL.write_text(with_tables(PROTOCOL.read_text()))
    write_transcripts()


if __name__ == "__main__":
    main()
