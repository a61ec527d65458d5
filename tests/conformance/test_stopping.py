"""Every kind of transaction that no ordering node should order stops a real peer: each refusal is needed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fabric_protos.peer import transaction_pb2

from support.real_peer import RealPeer, real_peer
from support.scratch_ledger import definition_values, own_policy, writes
from support.stopping import STOPPING, craft, craft_block

pytestmark = [pytest.mark.slow]

WITHIN_S = 12.0


@pytest.fixture
async def peer(tmp_path: Path) -> AsyncIterator[RealPeer]:
    directory = os.environ.get("FABRIC_BIN")
    if not directory or not (Path(directory) / "peer").is_file():
        pytest.skip("FABRIC_BIN does not name a directory with Fabric's peer")
    async with real_peer(Path(directory), tmp_path) as running:
        for values in (
            definition_values("app", collections={"sealed": own_policy(2, "alpha", "beta")}),
            definition_values("other"),
        ):
            define = running.craft([writes("_lifecycle", **values)], chaincode="_lifecycle")
            assert (await running.compare(define)).codes == (transaction_pb2.VALID,)
        yield running


async def test_a_peer_stops_at_a_policy_that_it_has_already_and_a_write(peer: RealPeer) -> None:
    one = STOPPING["a policy of a key under another transaction's id, and a write"]
    assert one.follows is not None
    names = ("app", "other", "alpha")
    changing = craft(peer, one.namespaces(*names))
    assert (await peer.compare(changing)).codes == (transaction_pb2.VALID,)
    following = craft(peer, one.follows(*names), endorsers=["alpha"])
    assert await peer.stops_at(changing, following, within_s=WITHIN_S)


@pytest.mark.parametrize("kind", STOPPING)
async def test_a_peer_stops_at_what_is_refused(peer: RealPeer, kind: str) -> None:
    block = craft_block(peer, kind, ("app", "other", "alpha"), endorsers=["alpha"])
    assert await peer.stops_at(*block, within_s=WITHIN_S)
