"""The process of `ahead`: blocks come in, fingerprints of good signatures go out.

It judges nothing. Who may sign, and how many must have, is asked where the block is replayed; of a block that cannot be
read it says nothing.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

from blockfl.fabric.channel.block import decode_block, decode_metadata, list_block_signatures
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import BlockError, FabricError
from blockfl.fabric.identity.policy import SignedData
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.transaction.envelope import CONFIG
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.validate.ahead import DONE, LENGTH_BYTES
from blockfl.fabric.validate.signatures import compute_fingerprint

_REMEMBERED: Final = 4096


class Reader:
    """Reads one block after the other of a chain."""

    def __init__(self) -> None:
        self._nodes: Mapping[int, bytes] = {}

    def list_good(self, encoded: bytes) -> Iterator[bytes]:
        """Yield the fingerprints of a block's good signatures."""
        try:
            block = decode_block(encoded)
            signed = list(self._list_signed(block))
        except FabricError:
            return
        for one in signed:
            try:
                identity = _read_identity(one.identity)
                identity.verify(one.signature, one.data)
            except FabricError:
                continue
            yield compute_fingerprint(identity, one.signature, one.data)

    def _list_signed(self, block: Any) -> Iterator[SignedData]:
        yield from list_block_signatures(decode_metadata(block), block.header, self._nodes)
        for envelope in block.data.data:
            try:
                transaction = decode_transaction(envelope)
            except BlockError:
                continue
            yield SignedData(transaction.creator, transaction.signature, transaction.payload)
            for one in transaction.endorsements:
                yield SignedData(one.endorser, one.signature, transaction.signed_response + one.endorser)
            if transaction.type == CONFIG:
                self._nodes = ChannelConfig.from_block(block, lenient=True).numbered_nodes


@lru_cache(maxsize=_REMEMBERED)
def _read_identity(serialized: bytes) -> Identity:
    return Identity.parse(serialized)


def main() -> None:
    """Read blocks until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its owner
    reader, source, sink = Reader(), sys.stdin.buffer, sys.stdout.buffer
    while length := source.read(LENGTH_BYTES):
        for fingerprint in reader.list_good(source.read(int.from_bytes(length, "big"))):
            sink.write(fingerprint)
        sink.write(DONE)
        sink.flush()


if __name__ == "__main__":
    main()
