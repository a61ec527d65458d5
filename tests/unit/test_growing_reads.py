"""What a process reads in each round must not become more with each round.

A listing of a task's rounds or versions does: after a thousand rounds it is a thousand records, and some day more than
one answer may hold. So agents and aggregators read one record at a time.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockfl.aggregator
import blockfl.institution
from blockfl.protocol import catalogue
from blockfl.protocol.key import Listing

OF_EACH_ROUND = {"round", "version"}
GROWING = {
    name
    for name, listing in vars(catalogue).items()
    if isinstance(listing, Listing)
    and OF_EACH_ROUND & set(listing.of.parts.names)
    and not OF_EACH_ROUND & set(listing.parts.names)
}
ONCE = {("appraisal.py", "APPRAISALS")}
"""Where a process begins; from then on it reads what is new."""


def find_listings(code: str) -> Iterator[str]:
    """Name every listing of the catalogue that some code reads."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Attribute(value=ast.Name(id=name) | ast.Attribute(attr=name), attr="below"):
                yield name


def test_listings_that_grow_are_those_of_rounds_and_versions() -> None:
    assert {"ROUNDS", "MODELS", "SETTLEMENTS", "APPRAISALS"} <= GROWING
    assert not {"UPDATES", "VOTES", "ENROLMENTS", "ALL_PROGRESS"} & GROWING


@pytest.mark.parametrize("package", [blockfl.aggregator, blockfl.institution], ids=["aggregator", "institution"])
def test_those_who_work_on_rounds_list_none_that_grow(package: object) -> None:
    (directory,) = package.__path__  # type: ignore[attr-defined]
    files = sorted(Path(directory).rglob("*.py"))
    read = {(file.name, name) for file in files for name in find_listings(file.read_text())}
    assert read, "no listing is found at all"
    assert {(file, name) for file, name in read if name in GROWING} <= ONCE


def test_a_read_of_all_settlements_would_be_found() -> None:
    assert list(find_listings("await ledger.read_all(catalogue.SETTLEMENTS.below(name))")) == ["SETTLEMENTS"]
    assert list(find_listings("await ledger.read_all(SETTLEMENTS.below(name))")) == ["SETTLEMENTS"]
