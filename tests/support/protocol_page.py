"""The tables of transactions, reads and records in docs/protocol.md, and what their cells say."""

from __future__ import annotations

import re

from blockfl.protocol.codes import Code
from support.documentation import PROTOCOL, list_quoted, read_table

TRANSACTIONS = read_table(PROTOCOL.read_text(), "Transactions")
RECORDS = read_table(PROTOCOL.read_text(), "Records")
READS = [
    *((reads, refusals) for reads, _, refusals in read_table(PROTOCOL.read_text(), "Reads")),
    *((reads, refusals) for _, _, _, reads, refusals in RECORDS if reads),
]
"""Which reads may refuse with which codes."""


def called(cell: str) -> tuple[str, int]:
    """The function that a cell names, and its number of arguments; what may follow them stands in brackets."""
    found = re.fullmatch(r"(\w+)\(([^\[\]]*)(\[, .+\])?\)", list_quoted(cell)[0])
    assert found is not None, cell
    return found[1], len(found[2].split(",")) if found[2] else 0


def has_further(cell: str) -> bool:
    """Whether more may follow the arguments of the function that a cell names."""
    return "[, " in list_quoted(cell)[0]


def list_codes(cell: str) -> set[str]:
    """The codes that a cell names, ranges included."""
    found = set(re.findall(r"BFL\d{3}", cell))
    for first, last in re.findall(r"(BFL\d{3}) to (BFL\d{3})", cell):
        found |= {code.identifier for code in Code if first <= code.identifier <= last}
    return found
