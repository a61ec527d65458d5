"""An upload of 20 MB whose connection is cut in the middle: what is on the ledger is not sent again."""

from __future__ import annotations

from typing import cast

import pytest

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import UnreachableError
from blockfl.ledger.transfer import upload_update
from blockfl.protocol.records import CHUNK_BYTES

CHUNKS = [bytes([index]) * CHUNK_BYTES for index in range(5)]


class CutLedger:
    """Keeps chunks until its connection is cut, after so many of them."""

    organisation = "alpha"

    def __init__(self, lasts: int) -> None:
        self.lasts = lasts
        self.held: dict[int, bytes] = {}
        self.sent_bytes = 0

    async def read_upload(self, task: str, number: int, organisation: str) -> list[bool]:
        return [index in self.held for index in range(len(CHUNKS))]

    async def upload_chunk(self, task: str, number: int, index: int, chunk: bytes) -> None:
        if not self.lasts:
            raise UnreachableError("the connection is cut")
        self.lasts -= 1
        self.held[index] = chunk
        self.sent_bytes += len(chunk)


@pytest.mark.parametrize("lasts", range(5))
async def test_only_what_is_missing_is_sent_when_the_connection_is_back(lasts: int) -> None:
    ledger, told = CutLedger(lasts), list[tuple[int, int]]()

    async def upload() -> None:
        await upload_update(
            cast(Ledger, ledger),
            "heart",
            1,
            CHUNKS.__getitem__,
            progress=lambda done, total: told.append((done, total)),
        )

    with pytest.raises(UnreachableError):
        await upload()
    assert len(ledger.held) == lasts
    ledger.lasts = len(CHUNKS)
    await upload()
    await upload()

    assert [ledger.held[index] for index in range(len(CHUNKS))] == CHUNKS
    assert ledger.sent_bytes == 5 * CHUNK_BYTES == 20 * 1024 * 1024
    assert told[-1] == (5, 5)
