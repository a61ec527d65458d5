"""Recording the corpus: every case, alone in a block, given to a real Fabric peer, and its code read back.

FABRIC_BIN=… PYTHONPATH=tests python -m support.corpus_recorder
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from blockfl.fabric.channel.block import decode_metadata, encode_block, header_hash
from blockfl.fabric.client.deliver import read_blocks, seek_from, sign_seek
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import private_key_pem
from support.corpus import REFUSED, STOPPED, Verdict, describe, digest_of, list_cases, write_verdicts
from support.corpus_cases import make_case, set_up
from support.corpus_world import CHANNEL, PORT, corpus_genesis, corpus_organisations, make_block
from support.real_peer import BlockSource, PeerIdentity, RunningPeer, running_peer, wait_for
from support.rich_certificates import fixed_key

_ANSWER_S: Final = 15.0
_PROGRESS: Final = 500


class PeerStopped(Exception):
    """The peer ended, or does not answer any more."""


class Witness:
    """A running peer that says what it makes of one block after the other."""

    def __init__(self, source: BlockSource, peer: RunningPeer, committed: AsyncIterator[Any]) -> None:
        self._source = source
        self._peer = peer
        self._committed = committed
        self._waiting: asyncio.Future[Any] | None = None
        self.previous = header_hash(corpus_genesis().header)
        self.height = 1

    async def ask(self, make: Callable[[int, bytes], Any]) -> int:
        """The code of a block's only transaction, or `REFUSED` when the peer does not take the block.

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
async def witness(binaries: Path, directory: Path) -> AsyncIterator[Witness]:
    """A fresh peer on the corpus' channel, after the blocks before the first case."""
    alpha, delta = corpus_organisations()["alpha"], corpus_organisations()["delta"]
    source, genesis = BlockSource(takes_back=True), corpus_genesis()
    await source.add(encode_block(genesis))
    await source.start(PORT, alpha.issue_tls("orderer1"), private_key_pem(fixed_key("orderer1.alpha")))
    signer, admin = delta.signer("peer0", "peer"), delta.signer("admin", "admin")
    identity = PeerIdentity(
        authority=delta.authority_pem,
        tls_authority=delta.tls_authority_pem,
        certificate=signer.identity.certificate_pem,
        key=private_key_pem(signer.private_key),
        tls_certificate=delta.issue_tls("peer0"),
        tls_key=private_key_pem(fixed_key("peer0.delta")),
    )
    try:
        async with running_peer(binaries, directory, identity) as peer:
            async with Endorser(peer.endpoint, admin) as endorser:
                await wait_for(endorser, peer.process)
                await endorser.query("", "cscc", "JoinChain", encode_block(genesis))
            async with peer.endpoint.open_channel() as channel:
                asked = Witness(source, peer, aiter(read_blocks(channel, sign_seek(seek_from(1), CHANNEL, admin))))
                async with asyncio.timeout(_ANSWER_S):
                    await source.wait_asked()
                for envelope in set_up():
                    code = await asked.ask(partial(make_block, envelope))
                    assert code == 0, describe(code)
                yield asked
    finally:
        await source.stop()


async def record(binaries: Path, cases: Iterator[tuple[str, int]]) -> list[Verdict]:
    """Ask a peer about every case; a peer that stops is replaced by a fresh one."""
    verdicts: list[Verdict] = []
    waiting = next(cases, None)
    while waiting is not None:
        with TemporaryDirectory(prefix="corpus-") as directory:
            try:
                async with witness(binaries, Path(directory)) as asked:
                    while waiting is not None:
                        kind, number = waiting
                        case = make_case(kind, number)
                        verdict = Verdict(kind, number, STOPPED, digest_of(case))
                        verdicts.append(verdict)
                        verdicts[-1] = Verdict(
                            kind, number, await asked.ask(partial(make_block, case)), digest_of(case)
                        )
                        waiting = next(cases, None)
                        if len(verdicts) % _PROGRESS == 0:
                            print(f"{len(verdicts)} cases", flush=True)
            except PeerStopped as stopped:
                print(f"{waiting}: the peer stopped at {stopped}", flush=True)
                waiting = next(cases, None)
    return verdicts


def main() -> None:
    """Record every case."""
    directory = os.environ.get("FABRIC_BIN")
    if not directory or not (Path(directory) / "peer").is_file():
        sys.exit("expected FABRIC_BIN to name a directory with Fabric's peer")
    binaries = Path(directory)
    said = subprocess.run([binaries / "peer", "version"], capture_output=True, text=True, check=True).stdout
    version = next(line.split()[-1] for line in said.splitlines() if "Version" in line)
    write_verdicts(asyncio.run(record(binaries, list_cases())), version)


if __name__ == "__main__":
    main()
