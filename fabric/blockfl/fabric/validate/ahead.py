"""Signatures of coming blocks, verified in another process while the blocks before them are replayed.

What it tells are facts: this key signed these bytes. A `SignatureCache` takes them; what it does not know in time, or
is not so, the replay verifies itself. So the outcome is the same with and without this process, and nothing ever waits
for it. It is asked about no more than it can answer in time: the replay verifies the rest, and both cores are at work.

    for reading in look_ahead(blocks, signatures, list_nodes):
        validate_block(reading.block, config, state, signatures=signatures, readings=reading.transactions)
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self

from blockfl.fabric.channel.block import list_block_signatures
from blockfl.fabric.channel.block_reading import BlockReading
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Identity, encode_public_key
from blockfl.fabric.identity.verifier import ANSWER_BYTES, LARGEST_BYTES, NOT_GOOD, ask
from blockfl.fabric.transaction.reading import Reading
from blockfl.fabric.validate.signatures import SignatureCache, compute_fingerprint, hash_endorsed

_FEW: Final = 64
"""For fewer blocks it is not worth to start a process."""
_AHEAD: Final = 64
_AHEAD_BYTES: Final = 4 * 1024 * 1024
_MOST_QUESTIONS: Final = 256
"""So many may wait for their answers."""
_PIECE_BYTES: Final = 65_536
_REMEMBERED: Final = 4096

ListNodes = Callable[[], Mapping[int, bytes]]
"""Serialised identities of the ordering nodes that may sign by their number, as far as the blocks replayed tell."""
Signed = tuple[bytes, bytes, bytes]
"""A serialised identity, its signature, and the SHA-256 of what is said to be signed."""


def look_ahead(blocks: Iterable[Any], signatures: SignatureCache, list_nodes: ListNodes) -> Generator[BlockReading]:
    """Yield blocks as they come; those that follow are read a little earlier, so that their signatures are known.

    Args:
        blocks: in the chain's order. What goes wrong in reading them is raised after the blocks before.
        signatures: takes what is found.
        list_nodes: who signs blocks by number.
    """
    with _Window(signatures, list_nodes) as window:
        try:
            for block in blocks:
                yield from window.pass_through(block)
        except Exception:
            yield from window.rest()
            raise
        yield from window.rest()


async def look_ahead_async(
    blocks: AsyncIterator[Any], signatures: SignatureCache, list_nodes: ListNodes
) -> AsyncGenerator[BlockReading]:
    """The same for blocks that come from a peer."""
    with _Window(signatures, list_nodes) as window:
        try:
            async for block in blocks:
                for due in window.pass_through(block):
                    yield due
        except Exception:
            for due in window.rest():
                yield due
            raise
        for due in window.rest():
            yield due


class _Window:
    """The blocks that were read and not replayed yet: a bounded number, none at all without a second core."""

    def __init__(self, signatures: SignatureCache, list_nodes: ListNodes) -> None:
        self._signatures = signatures
        self._list_nodes = list_nodes
        self._blocks: deque[BlockReading] = deque()
        self._bytes = 0
        self._seen = 0
        self._helper: _Helper | None = None
        self._is_worth_it = _count_cores() > 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._helper is not None:
            self._helper.close()

    def pass_through(self, block: Any) -> Iterator[BlockReading]:
        """Take a block in; yield those whose turn it is."""
        reading = BlockReading(block)
        self._seen += 1
        if self._helper is None and self._is_worth_it and self._seen > _FEW:
            self._helper = _Helper()
        if self._helper is None:
            yield reading
            return
        self._ask(self._helper, reading)
        self._blocks.append(reading)
        self._bytes += reading.size_bytes
        while self._blocks and (len(self._blocks) > _AHEAD or self._bytes > _AHEAD_BYTES):
            yield self._take()

    def rest(self) -> Iterator[BlockReading]:
        """Yield the blocks that are left."""
        while self._blocks:
            yield self._take()

    def _ask(self, helper: _Helper, reading: BlockReading) -> None:
        for one in list_signed(reading, self._list_nodes()):
            if not helper.has_room:
                break
            question = make_question(*one)
            if question is not None:
                helper.offer(question)
        helper.send()

    def _take(self) -> BlockReading:
        if self._helper is not None:
            for fingerprint in self._helper.collect():
                self._signatures.admit(fingerprint)
        reading = self._blocks.popleft()
        self._bytes -= reading.size_bytes
        return reading


def list_signed(reading: BlockReading, nodes: Mapping[int, bytes]) -> Iterator[Signed]:
    """Yield the signatures of a block: the ordering nodes', then each transaction's; what cannot be read has none."""
    try:
        for one in list_block_signatures(reading.metadata, reading.block.header, nodes):
            yield one.identity, one.signature, hashlib.sha256(one.data).digest()
    except FabricError:
        pass
    for transaction in reading.transactions:
        try:
            yield from _list_signed_of(transaction)
        except FabricError:
            continue


def _list_signed_of(transaction: Reading) -> Iterator[Signed]:
    creator = transaction.signature_header.creator
    yield creator, transaction.envelope.signature, hashlib.sha256(transaction.signed).digest()
    endorsements = transaction.endorsements
    signed = hash_endorsed(transaction.signed_response, [one.endorser for one in endorsements])
    for one, (_, digest) in zip(endorsements, signed, strict=True):
        yield one.endorser, one.signature, digest


def make_question(serialized: bytes, signature: bytes, digest: bytes) -> bytes | None:
    """Return what to ask about a signature; None when only the replay can verify it."""
    try:
        identity, key = _read_identity(serialized)
    except FabricError:
        return None
    if key is None or max(len(key), len(signature)) > LARGEST_BYTES:
        return None
    return ask(key, signature, digest, compute_fingerprint(identity, signature, digest))


@lru_cache(maxsize=_REMEMBERED)
def _read_identity(serialized: bytes) -> tuple[Identity, bytes | None]:
    identity = Identity.parse(serialized)
    key = identity.hashing_key
    return identity, None if key is None else encode_public_key(key)


class _Helper:
    """The process. Its pipes never block: it is told as much as it takes, and asked for what is there."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-P", "-m", "blockfl.fabric.identity.verifier"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        for end in (self._input, self._output):
            os.set_blocking(end, False)
        self._unsent, self._unread = b"", b""
        self._waiting = 0

    @property
    def has_room(self) -> bool:
        """Whether it can be asked another question."""
        return self._waiting < _MOST_QUESTIONS

    def offer(self, question: bytes) -> None:
        """Note a question for it; `send` tells it."""
        self._unsent += question
        self._waiting += 1

    def collect(self) -> Iterator[bytes]:
        """Yield the fingerprints of the good signatures that it has found since."""
        self.send()
        self._unread += self._read()
        whole = len(self._unread) - len(self._unread) % ANSWER_BYTES
        for start in range(0, whole, ANSWER_BYTES):
            self._waiting -= 1
            fingerprint = self._unread[start : start + ANSWER_BYTES]
            if fingerprint != NOT_GOOD:
                yield fingerprint
        self._unread = self._unread[whole:]

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def send(self) -> None:
        """Tell it what it has not been told, as far as it takes it."""
        try:
            while self._unsent:
                self._unsent = self._unsent[os.write(self._input, self._unsent[:_PIECE_BYTES]) :]
        except (BlockingIOError, BrokenPipeError):
            return

    def _read(self) -> bytes:
        try:
            return os.read(self._output, _PIECE_BYTES)
        except BlockingIOError:
            return b""


def _count_cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
