"""The codes that docs/protocol.md gives each transaction and read are those that it can refuse with."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from support.documentation import list_quoted
from support.protocol_page import READS, TRANSACTIONS, called, list_codes
from support.refusals import list_refusals
from support.world import World

OF_EVERY_CALL = {"BFL208", "BFL301", "BFL302", "BFL303"}
"""And BFL112 of every transaction but two; the page says so."""


NEVER: Sequence[tuple[set[str], set[str], str]] = (
    (
        {"RegisterConsortium", "UploadModelChunk", "Enrol", "Withdraw"},
        {"BFL103"},
        "the round that a task's progress names is there",
    ),
    ({"OpenRound", "PublishModel", "SettleRound"}, {"BFL117"}, "the versions up to the last one are there"),
    (
        {"AttestAggregate", "PublishModel", "UploadModelChunk"},
        {"BFL117"},
        "a closed round has an aggregate, and its updates commitments",
    ),
    ({"ScoreRound"}, {"BFL117"}, "a closed round of a task with economics has a score"),
    ({"SubmitUpdate", "AttestAggregate", "PublishModel", "ScoreRound"}, {"BFL114"}, "what was submitted has a header"),
    ({"CloseRound", "AttestAggregate", "PublishModel"}, {"BFL101"}, "the task of a round is there"),
    ({"SubmitUpdate"}, {"BFL402"}, "the round is the one that the header names"),
    ({"JudgeUpdate"}, {"BFL414"}, "what was opened has the type that commitments are made of"),
    ({"JudgeUpdate"}, {"BFL204"}, "an organisation that has submitted takes part in the round"),
    ({"SettleWrap"}, {"BFL119"}, "a claim is made by a recipient"),
    ({"CloseRound"}, {"BFL104", "BFL107"}, "a round that is not open is a success; it was closed just now"),
    ({"AbandonRound"}, {"BFL506"}, "a round that was abandoned is a success"),
    ({"SettleRound"}, {"BFL204"}, "a participant has a stake"),
    ({"JudgeUpdate", "ScoreRound"}, {"BFL501"}, "the sums of published models were attested with their lengths"),
)
"""What `list_refusals` finds and cannot come about: transactions, codes, why."""


def find_refusals(functions: Iterable[str]) -> set[str]:
    """The codes that these transactions or reads may refuse with, beside those of every call."""
    table = World().contracts["coordinator"].table
    found = {code.identifier for function in functions for code in list_refusals(table[function].run)}
    return found - OF_EVERY_CALL


@pytest.mark.parametrize("row", TRANSACTIONS, ids=lambda row: row[0])
def test_a_transaction_refuses_with_what_its_row_says(row: list[str]) -> None:
    function, _ = called(row[0])
    never: set[str] = set().union(*(codes for names, codes, _ in NEVER if function in names))
    found = find_refusals([function])
    assert never <= found, "no longer to be excepted"
    assert not never & list_codes(row[-1])
    assert found - never - {"BFL112"} == list_codes(row[-1])
    assert ("BFL112" in found) == (function not in ("RegisterConsortium", "UploadChunk"))


@pytest.mark.parametrize("row", READS, ids=lambda row: row[0])
def test_reads_refuse_with_what_their_row_says(row: tuple[str, str]) -> None:
    assert find_refusals(called(f"`{one}`")[0] for one in list_quoted(row[0])) == list_codes(row[-1])
