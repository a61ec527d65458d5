"""Every kind of transaction that no ordering node should order stops a real peer: each refusal is needed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fabric_protos.peer import transaction_pb2

from support.real_peer import RealPeer, real_peer
from support.scratch_ledger import definition_values, own_policy, writes
from support.stopping import STOPPING, craft, craft_block

pytestmark = [pytest.mark.slow]

WITHIN_S = 12.0
PEERS_OF_A_RACE = 10
"""Real peers 3.1.5 committed such a block in 2 of 12 cases, so all of these do by chance in one of 60 million runs."""


@pytest.fixture
def binaries() -> Path:
    directory = os.environ.get("FABRIC_BIN")
    if not directory or not (Path(directory) / "peer").is_file():
        pytest.skip("FABRIC_BIN does not name a directory with Fabric's peer")
    return Path(directory)


@asynccontextmanager
async def peer_with_chaincodes(binaries: Path, directory: Path) -> AsyncIterator[RealPeer]:
    """A real peer whose channel has the chaincodes app, with a collection, and other."""
    async with real_peer(binaries, directory) as running:
        for values in (
            definition_values("app", collections={"sealed": own_policy(2, "alpha", "beta")}),
            definition_values("other"),
        ):
            define = running.craft([writes("_lifecycle", **values)], chaincode="_lifecycle")
            assert (await running.compare(define)).codes == (transaction_pb2.VALID,)
        yield running


async def test_a_peer_stops_at_a_policy_that_it_has_already_and_a_write(binaries: Path, tmp_path: Path) -> None:
    one = STOPPING["a policy of a key under another transaction's id, and a write"]
    assert one.follows is not None
    names = ("app", "other", "alpha")
    async with peer_with_chaincodes(binaries, tmp_path) as peer:
        changing = craft(peer, one.namespaces(*names))
        assert (await peer.compare(changing)).codes == (transaction_pb2.VALID,)
        following = craft(peer, one.follows(*names), endorsers=["alpha"])
        assert await peer.stops_at(changing, following, within_s=WITHIN_S)


@pytest.mark.parametrize("kind", STOPPING)
async def test_a_peer_stops_at_what_is_refused(binaries: Path, tmp_path: Path, kind: str) -> None:
    for number in range(PEERS_OF_A_RACE if STOPPING[kind].races else 1):
        async with peer_with_chaincodes(binaries, tmp_path / str(number)) as peer:
            block = craft_block(peer, kind, ("app", "other", "alpha"), endorsers=["alpha"])
            if await peer.stops_at(*block, within_s=WITHIN_S):
                return
    pytest.fail("the peer has committed the block")
