"""What peers hold of a block: asked at the addresses that the channel's configuration names."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.common import common_pb2

from blockfl.audit.chain import ChainProof, pinned_hash
from blockfl.audit.finding import list_agreeing
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.gateway import Gateway
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.layout import Layout
from support.small_network import ORGANISATIONS, small_network

pytestmark = [pytest.mark.slow]


async def ask(directory: Path) -> None:
    profile = ConnectionProfile.load(Layout(directory).organisation("regulator").profile("admin"))
    signer = profile.load_signer()
    async with Gateway(profile.make_endpoint(), signer, profile.channel) as gateway:
        blocks = [block async for block in _first(gateway, 3)]
    config = ChannelConfig.from_block(blocks[0])
    assert sorted(await list_agreeing(config, signer, blocks[2])) == sorted(ORGANISATIONS)
    forged = common_pb2.Block()
    forged.CopyFrom(blocks[2])
    forged.metadata.metadata[common_pb2.TRANSACTIONS_FILTER] = b"\x0b"
    assert await list_agreeing(config, signer, forged) == []
    proof = ChainProof(
        genesis_hash=pinned_hash(Layout(directory).organisation("regulator").genesis.read_bytes()), namespace="blockfl"
    )
    for block in blocks:
        proof.add(block)
    assert proof.findings == []


async def _first(gateway: Gateway, count: int) -> Any:
    async for block in gateway.blocks(0):
        yield block
        count -= 1
        if not count:
            return


def test_every_organisations_peer_is_asked_and_only_equal_copies_agree(tmp_path: Path) -> None:
    with small_network(tmp_path / "network", "embedded"):
        asyncio.run(ask(tmp_path / "network"))
        layout = Layout(tmp_path / "network")
        genesis = common_pb2.Block.FromString(layout.organisation("regulator").genesis.read_bytes())
        signer = ConnectionProfile.load(layout.organisation("regulator").profile("admin")).load_signer()
    # Nobody is there any more: silence agrees with nothing.
    assert asyncio.run(list_agreeing(ChannelConfig.from_block(genesis), signer, genesis)) == []
