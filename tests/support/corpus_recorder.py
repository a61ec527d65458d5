"""Recording the corpus: every case, alone in a block, given to a real Fabric peer, and its code read back.

FABRIC_BIN=… PYTHONPATH=tests python -m support.corpus_recorder [KIND…]
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from blockfl.fabric.channel.block import decode_metadata, encode_block, header_hash
from blockfl.fabric.client.deliver import read_blocks, seek_from, sign_seek
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import private_key_pem
from blockfl.fabric.transaction.envelope import VALID
from support import corpus_blocks, corpus_cases, corpus_configurations, corpus_updates
from support.configuration_recorder import MOST_CONFIGURATIONS, configuration_witness
from support.corpus import (
    REFUSED,
    STOPPED,
    Verdict,
    all_counts,
    describe,
    digest_of,
    make,
    recorded_verdicts,
    write_verdicts,
)
from support.corpus_cases import set_up
from support.corpus_world import CHANNEL, PORT, corpus_genesis, corpus_organisations, corpus_peer, make_block
from support.real_peer import BlockSource, PeerAnswered, PeerStopped, running_peer, wait_for
from support.rich_certificates import fixed_key
from support.update_recorder import change_witness, update_witness

_ANSWER_S: Final = 15.0
_PROGRESS: Final = 500
Case = tuple[str, int]
Ask = Callable[[str, int], Awaitable[int]]
OpenWitness = Callable[[Path], AbstractAsyncContextManager[Ask]]


class Witness:
    """A running peer that says what it makes of one block after the other."""

    def __init__(self, source: BlockSource, committed: AsyncIterator[Any], genesis_hash: bytes) -> None:
        self._source = source
        self._committed = committed
        self._waiting: asyncio.Future[Any] | None = None
        self.previous = genesis_hash
        self.height = 1

    async def ask(self, make: Callable[[int, bytes], Any]) -> int:
        """The code of a block's first transaction, or `REFUSED` when the peer does not take the block.

        Args:
            make: makes the next block from its number and the hash of the block before.

        Raises:
            PeerStopped: it gives none.
        """
        block = make(self.height, self.previous)
        before = self._source.refused
        await self._source.add(encode_block(block))
        committed = asyncio.ensure_future(self._read())
        refused = asyncio.ensure_future(self._source.wait_refused(before))
        try:
            async with asyncio.timeout(_ANSWER_S):
                await asyncio.wait((committed, refused), return_when=asyncio.FIRST_COMPLETED)
            if not committed.done():
                return REFUSED
            code = int(decode_metadata(committed.result()).filter[0])
        except (TimeoutError, FabricError, StopAsyncIteration) as error:
            raise PeerStopped(f"block {self.height}") from error
        finally:
            refused.cancel()
            self._waiting = None if committed.done() else committed
        self.height += 1
        self.previous = header_hash(block.header)
        return code

    async def _read(self) -> Any:
        """The next block that the peer commits; what waits for it already goes on waiting."""
        if self._waiting is not None:
            return await self._waiting
        return await anext(self._committed)


@asynccontextmanager
async def witness(binaries: Path, directory: Path, genesis: Any, channel: str) -> AsyncIterator[Witness]:
    """A fresh peer on a channel whose ordering node is played."""
    alpha, delta = corpus_organisations()["alpha"], corpus_organisations()["delta"]
    source = BlockSource(takes_back=True)
    await source.add(encode_block(genesis))
    await source.start(PORT, alpha.issue_tls("orderer1"), private_key_pem(fixed_key("orderer1.alpha")))
    admin = delta.signer("admin", "admin")
    try:
        async with running_peer(binaries, directory, corpus_peer()) as peer:
            async with Endorser(peer.endpoint, admin) as endorser:
                await wait_for(endorser, peer.process)
                await endorser.query("", "cscc", "JoinChain", encode_block(genesis))
            async with peer.endpoint.open_channel() as opened:
                blocks = aiter(read_blocks(opened, sign_seek(seek_from(1), channel, admin)))
                asked = Witness(source, blocks, header_hash(genesis.header))
                async with asyncio.timeout(_ANSWER_S):
                    await source.wait_asked()
                yield asked
    finally:
        await source.stop()


async def record(cases: Iterator[Case], open_witness: OpenWitness, most: int | None = None) -> list[Verdict]:
    """Ask about every case; a peer that stops, or that has been asked enough, is replaced by a fresh one."""
    verdicts: list[Verdict] = []
    waiting = next(cases, None)
    while waiting is not None:
        with TemporaryDirectory(prefix="corpus-") as directory:
            try:
                async with open_witness(Path(directory)) as ask:
                    asked = 0
                    while waiting is not None and (most is None or asked < most):
                        kind, number = waiting
                        digest = digest_of(make(kind, number))
                        verdicts.append(Verdict(kind, number, STOPPED, digest))
                        verdicts[-1] = Verdict(kind, number, await ask(kind, number), digest)
                        waiting = next(cases, None)
                        asked += 1
                        if len(verdicts) % _PROGRESS == 0:
                            print(f"{len(verdicts)} cases", flush=True)
            except PeerAnswered as answered:
                verdicts[-1] = replace(verdicts[-1], code=answered.code)
                waiting = next(cases, None)
            except PeerStopped as stopped:
                print(f"{waiting}: the peer stopped at {stopped}", flush=True)
                waiting = next(cases, None)
    return verdicts


@asynccontextmanager
async def ask_about_transactions(binaries: Path, directory: Path) -> AsyncIterator[Ask]:
    async with witness(binaries, directory, corpus_genesis(), CHANNEL) as asked:
        for envelope in set_up():
            code = await asked.ask(partial(make_block, envelope))
            assert code == VALID, describe(code)

        async def ask(kind: str, number: int) -> int:
            return await asked.ask(partial(make_block, make(kind, number)))

        yield ask


@asynccontextmanager
async def ask_about_configurations(binaries: Path, directory: Path) -> AsyncIterator[Ask]:
    async with configuration_witness(binaries, directory) as asked:
        yield asked.ask


@asynccontextmanager
async def ask_about_blocks(binaries: Path, directory: Path) -> AsyncIterator[Ask]:
    channel = corpus_blocks.CHANNEL
    async with witness(binaries, directory, corpus_blocks.blocks_genesis(), channel) as asked:

        async def ask(kind: str, number: int) -> int:
            code = await asked.ask(partial(corpus_blocks.make_block_case, kind, number))
            if code == REFUSED:  # so that the peer does not wait longer and longer before it asks again
                assert await asked.ask(corpus_blocks.make_plain_block) != REFUSED
                return REFUSED
            return corpus_blocks.TAKEN

        yield ask


@asynccontextmanager
async def ask_about_changes(binaries: Path, directory: Path) -> AsyncIterator[Ask]:
    async with change_witness(binaries, directory) as asked:
        yield asked.ask


_WITNESSES: Final = (
    (corpus_blocks.COUNTS, ask_about_blocks, None),
    (corpus_cases.COUNTS, ask_about_transactions, None),
    (corpus_configurations.COUNTS, ask_about_configurations, MOST_CONFIGURATIONS),
    ({"update": corpus_updates.COUNTS["update"]}, update_witness, None),
    ({"change": corpus_updates.COUNTS["change"]}, ask_about_changes, MOST_CONFIGURATIONS),
)


async def record_all(binaries: Path, kinds: set[str]) -> list[Verdict]:
    """Ask about every case of these kinds; the others keep their codes."""
    found = [one for one in recorded_verdicts() if one.kind not in kinds] if kinds < set(all_counts()) else []
    for counts, open_witness, most in _WITNESSES:
        cases = ((kind, number) for kind, count in counts.items() if kind in kinds for number in range(count))
        found += await record(cases, partial(open_witness, binaries), most)
    order = list(all_counts())
    return sorted(found, key=lambda one: (order.index(one.kind), one.number))


def main() -> None:
    """Record every case."""
    directory = os.environ.get("FABRIC_BIN")
    if not directory or not (Path(directory) / "peer").is_file():
        sys.exit("expected FABRIC_BIN to name a directory with Fabric's peer")
    binaries = Path(directory)
    said = subprocess.run([binaries / "peer", "version"], capture_output=True, text=True, check=True).stdout
    version = next(line.split()[-1] for line in said.splitlines() if "Version" in line)
    kinds = set(sys.argv[1:]) or set(all_counts())
    write_verdicts(asyncio.run(record_all(binaries, kinds)), version)


if __name__ == "__main__":
    main()
