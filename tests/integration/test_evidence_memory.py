"""Verifying evidence takes no more memory for a longer chain: what grows with it is in temporary files."""

from __future__ import annotations

from pathlib import Path

from support.long_chain import measure_verification, write_long_bundle

BLOCKS, VALUE_BYTES = 100, 64_000
ALLOWED_BYTES = 6 << 20


def test_four_times_the_blocks_take_no_more_memory(tmp_path: Path) -> None:
    peaks = []
    for blocks in (BLOCKS, 4 * BLOCKS):
        bundle = tmp_path / f"{blocks}.bundle"
        genesis_hash = write_long_bundle(bundle, blocks, VALUE_BYTES)
        peaks.append(measure_verification(bundle, genesis_hash).rss_bytes)
    assert 3 * BLOCKS * VALUE_BYTES > 3 * ALLOWED_BYTES, "memory that held the writes would show"
    assert peaks[1] - peaks[0] < ALLOWED_BYTES
