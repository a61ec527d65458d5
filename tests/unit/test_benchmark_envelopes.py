"""Every byte of a ledger is counted once, as the part that it is."""

from __future__ import annotations

from benchmarks.envelopes import BLOCKS, PARTS, measure

from blockfl.audit.bundle import Bundle
from support.played_ledger import Played


def test_the_parts_are_the_whole_ledger(played: Played) -> None:
    found = measure(played.bundle)
    with Bundle.open(played.bundle) as bundle:
        sizes = [block.ByteSize() for block in bundle.blocks()]
    assert sum(sum(parts.values()) for parts in found.values()) == sum(sizes)
    assert all(count >= 0 for parts in found.values() for count in parts.values())
    assert set(found[BLOCKS]) == {"other"}
    judged = found["JudgeUpdate"]
    assert set(judged) == set(PARTS)
    # A verdict keeps the update's commitment, which is most of what it writes.
    assert judged["writes"] > judged["endorsements"] > judged["events"] > 0
