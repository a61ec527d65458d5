"""Whole rounds in plain text: what was sent, what came of it, what stands on the ledger afterwards.

After a deliberate change of the contract: ``make docs``, and read what changed.
"""

from __future__ import annotations

import re

import pytest

from blockfl.protocol.codes import Code
from support.rounds import STORIES, tell
from support.transcripts import DIRECTORY, read_transcript


@pytest.mark.parametrize("name", STORIES)
async def test_a_transcript_is_what_happens(name: str) -> None:
    assert (await tell(name)).transcript() == read_transcript(name), "make docs, and read what changed"


def test_every_transcript_is_of_a_story() -> None:
    assert {path.stem for path in DIRECTORY.glob("*.txt")} == set(STORIES)


def test_the_stories_tell_of_everything_that_can_happen_to_a_round_and_an_update() -> None:
    text = "".join(map(read_transcript, STORIES))
    for event in ("RoundOpened", "UpdateJudged", "RoundClosed", "RoundFailed", "RoundAbandoned", "ModelPublished",
                  "EquivocationRecorded", "RoundSettled", "PenaltyOverturned", "MetricsReported",
                  "WrapClaimed", "WrapSettled", "CertificateWithdrawn"):  # fmt: skip
        assert f"event {event} " in text
    told = {Code.of(code) for code in re.findall(r"BFL[0-9]{3}", text)}
    assert {Code.NORM_TENSOR, Code.NORM_MINIMUM, Code.COSINE, Code.CERTIFICATE_WITHDRAWN} <= told
    assert {Code.NORM_L2, Code.EQUIVOCATION, Code.CHUNKS_MISSING, Code.SEAL_BROKEN, Code.SUM_MISMATCH} <= told
