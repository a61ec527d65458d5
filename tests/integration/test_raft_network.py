"""Real Fabric with raft instead of BFT: three ordering nodes, any of which may be killed; the auditor verifies it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.fabric.channel.block import decode_block, decode_metadata, verify_block_signatures
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.signing import Identity
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.protocol import catalogue
from blockfl.protocol.economics import TREASURY
from support.ledgers import LEDGERS
from support.small_network import small_network

pytestmark = pytest.mark.slow
ORDERERS = ("coordinator", "regulator", "university")
WAIT_S = 90.0


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Layout]:
    if reason := LEDGERS["local"]():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("raft") / "network"
    with small_network(directory, "local", consensus="raft"):
        yield Layout(directory)


def profile(layout: Layout, organisation: str) -> ConnectionProfile:
    return ConnectionProfile.load(layout.organisation(organisation).profile("agent"))


async def grant(ledger: Ledger, name: str) -> None:
    """A transaction that may follow the last one at once."""
    async with asyncio.timeout(WAIT_S):
        await ledger.grant(name, TREASURY, 1)


def test_a_description_with_raft_has_three_ordering_nodes_of_raft(layout: Layout) -> None:
    config = ChannelConfig.from_block(decode_block(layout.organisation("hospital").genesis.read_bytes()))
    assert config.consensus_type == "etcdraft"
    rows = {row.name: row for row in Network.open(layout.directory).status()}
    assert sorted(name for name in rows if name.startswith("orderer-")) == [f"orderer-{name}" for name in ORDERERS]
    assert {row.state for row in rows.values()} == {"running"}
    assert [row.error for row in rows.values() if row.error] == []


@pytest.mark.parametrize("victim", ORDERERS)
async def test_whichever_ordering_node_is_killed_transactions_go_on(layout: Layout, victim: str) -> None:
    network = Network.open(layout.directory)
    async with Ledger(profile(layout, "coordinator")) as ledger:
        before = (await ledger.read(catalogue.SUPPLY.key())).granted
        await grant(ledger, f"before-{victim}")
        pid = next(row.pid for row in await asyncio.to_thread(network.status) if row.name == f"orderer-{victim}")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await grant(ledger, f"after-{victim}")
        assert (await ledger.read(catalogue.SUPPLY.key())).granted == before + 2
    # Two at once would be too many: the keeper starts it again.
    async with asyncio.timeout(WAIT_S):
        while (rows := {row.name: row for row in await asyncio.to_thread(network.status)})[
            f"orderer-{victim}"
        ].height != rows["peer-hospital"].height:
            await asyncio.sleep(0.2)


async def test_its_blocks_carry_one_signature_of_an_ordering_node_and_verify(layout: Layout) -> None:
    config = ChannelConfig.from_block(decode_block(layout.organisation("hospital").genesis.read_bytes()))
    async with Ledger(profile(layout, "hospital")) as ledger:
        height = await ledger.gateway.height()
        signers = set()
        async for block in ledger.gateway.blocks(1):
            verify_block_signatures(block, config)
            (signature,) = decode_metadata(block).signatures
            identity = Identity.parse(signature.creator)
            assert config.msps[identity.msp_id].role(identity) == "orderer"
            signers.add(identity.msp_id)
            if block.header.number == height - 1:
                break
    assert len(signers) > 1, "the leader was killed, so another one led"
    block.header.data_hash = bytes(32)
    with pytest.raises(BlockError):
        verify_block_signatures(block, config)


def test_the_auditor_verifies_the_whole_ledger(layout: Layout) -> None:
    path = str(layout.organisation("hospital").profile("agent"))
    result = CliRunner().invoke(app, ["audit", "verify", "--profile", path, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["verified"] is True
    assert report["blocks"] > 6
