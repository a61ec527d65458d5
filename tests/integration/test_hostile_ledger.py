"""A ledger with a hostile transaction of every kind verifies to its end, live and from evidence."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.common import common_pb2, configtx_pb2
from fabric_protos.orderer import ab_pb2
from typer.testing import CliRunner, Result

from blockfl.audit.errors import DisputedError
from blockfl.cli.main import app
from blockfl.cli.output import Exit
from blockfl.fabric.channel.block import decode_metadata, header_hash
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.client.broadcast import BROADCAST, broadcast
from blockfl.fabric.client.deliver import read_config
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.transaction.code import code_name
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.description import LedgerKind
from blockfl.network.layout import Layout
from blockfl.network.ordering import orderer_endpoints
from support.hostile_ledger import HIGH_S, HostileMember, nest_policy
from support.local_consortium import members_of
from support.planted import PLANTED, forget
from support.small_network import ORGANISATIONS, small_network

pytestmark = [pytest.mark.slow]

HOSTILE = "coordinator"
DEPTHS = (60, 2000)
SOON_S = 120.0
WITNESSES = ("coordinator", "regulator", "university")


async def is_ordered(channel: Any, envelope: bytes) -> bool:
    """Send an envelope to an ordering node; return whether it takes it."""
    call = channel.stream_stream(BROADCAST)(timeout=SOON_S)
    try:
        await call.write(envelope)
        return bool(ab_pb2.BroadcastResponse.FromString(await call.read()).status == common_pb2.SUCCESS)
    finally:
        call.cancel()


@dataclass
class HostileLedger:
    """A network on whose ledger the transactions are.

    Attributes:
        recorded: by name, what peers say of each that was ordered.
        is_real: whether Fabric's own programs run it.
        refused: those that no ordering node takes, and whether peers find them valid.
        places: by name, number of the block and index.
    """

    directory: Path
    is_real: bool
    genesis_hash: str = ""
    height: int = 0
    recorded: dict[str, str] = field(default_factory=dict)
    refused: dict[str, bool | None] = field(default_factory=dict)
    wanted: dict[str, bool | None] = field(default_factory=dict)
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def profile(self, organisation: str, identity: str = "admin") -> Path:
        return Layout(self.directory).organisation(organisation).profile(identity)

    async def fill(self) -> None:
        """Send everything, and note what peers make of it."""
        profile, layout = ConnectionProfile.load(self.profile(HOSTILE)), Layout(self.directory)
        genesis = common_pb2.Block.FromString(layout.organisation(HOSTILE).genesis.read_bytes())
        self.genesis_hash = header_hash(genesis.header).hex()
        config = ChannelConfig.from_block(genesis)
        member = HostileMember(config, {one: members_of(one, layout) for one in ORGANISATIONS}, profile.contract)
        sent: dict[bytes, str] = {}
        async with (
            Gateway(profile.make_endpoint(), profile.load_signer(), profile.channel) as gateway,
            orderer_endpoints(config)[0].open_channel() as channel,
        ):
            for name, hostile in member.everything(thorough=self.is_real):
                if await is_ordered(channel, hostile.envelope):
                    sent[hostile.envelope], self.wanted[name] = name, hostile.is_valid
                else:
                    self.refused[name] = hostile.is_valid
            for depth in DEPTHS:
                await self._nest(profile, depth)
            last = member.plain()
            assert await is_ordered(channel, last)
            await self._note(gateway, sent, last)

    async def _nest(self, profile: ConnectionProfile, depth: int) -> None:
        """One administrator alone gives its own organisation a deep policy."""
        signer = profile.load_signer()
        config = await read_config(profile.make_endpoint(), profile.channel, signer)
        wanted = configtx_pb2.Config()
        wanted.CopyFrom(config.config)
        group = wanted.channel_group.groups["Application"].groups[HOSTILE]
        group.policies["Readers"].policy.value = nest_policy(HOSTILE, depth)
        update = compute_update(config.config, wanted, config.channel_id)
        envelope = build_update_envelope(update, [sign_update(update, signer)], signer)
        await broadcast(orderer_endpoints(config)[:1], envelope)
        async with asyncio.timeout(SOON_S):
            await read_config(profile.make_endpoint(), profile.channel, signer, sequence=config.sequence + 1)

    async def _note(self, gateway: Gateway, sent: Mapping[bytes, str], last: bytes) -> None:
        async with asyncio.timeout(SOON_S):
            async for block in gateway.blocks(0):
                codes = decode_metadata(block).filter
                for index, envelope in enumerate(block.data.data):
                    if envelope in sent:
                        self.recorded[sent[envelope]] = code_name(codes[index])
                        self.places[sent[envelope]] = (block.header.number, index)
                if last in block.data.data:
                    self.height = block.header.number + 1
                    return


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, ledger_kind: LedgerKind) -> Iterator[HostileLedger]:
    directory = tmp_path_factory.mktemp("hostile") / "network"
    with small_network(directory, ledger_kind, consensus="raft"):
        ledger = HostileLedger(directory, is_real=ledger_kind != "embedded")
        asyncio.run(ledger.fill())
        yield ledger


def run(*command: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, command)])


def verify_live(hostile: HostileLedger) -> Result:
    return run("verify", "--json", "--profile", hostile.profile("regulator"))


def test_peers_judge_each_as_it_is_known_of_them(hostile: HostileLedger) -> None:
    # The embedded node refuses before it orders what peers find malformed, and takes what they take.
    assert not any(hostile.refused.values())
    assert hostile.recorded.keys() == hostile.wanted.keys()
    wrong = {
        name: hostile.recorded[name]
        for name, is_valid in hostile.wanted.items()
        if is_valid is not None and (hostile.recorded[name] == "VALID") != is_valid
    }
    assert wrong == {}
    assert len(set(hostile.recorded.values())) > 1


def test_real_ordering_nodes_order_all_of_them(hostile: HostileLedger) -> None:
    if not hostile.is_real:
        assert hostile.refused
    else:
        assert hostile.refused.keys() <= {HIGH_S}  # which they check themselves
        assert len(set(hostile.recorded.values())) > 5


def test_the_ledger_verifies_to_its_end_without_a_finding(hostile: HostileLedger) -> None:
    done = verify_live(hostile)
    assert done.exit_code == Exit.OK, done.output
    report = json.loads(done.stdout)
    assert report["blocks"] >= hostile.height
    assert report["findings"] == []
    assert report["transactions"] > len(hostile.recorded)


DIFFERENCES = {
    "alternative names": "certificate: an alternative name with an address of five bytes",
    "names": "certificate: a name that is not UTF-8",
    "PEM": "in PEM: header lines",
}
"""What another reading makes a finding of; of each kind one."""


@pytest.fixture
def difference(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    forget()
    PLANTED[request.param].plant(monkeypatch)
    try:
        yield DIFFERENCES[request.param]
    finally:
        forget()


@pytest.mark.parametrize("difference", DIFFERENCES, indirect=True)
def test_what_another_reading_judges_otherwise_is_a_finding_and_the_exit_code_says_so(
    hostile: HostileLedger, difference: str
) -> None:
    if not hostile.is_real and difference != DIFFERENCES["PEM"]:
        pytest.skip("once is enough on the embedded node")
    done = verify_live(hostile)
    assert done.exit_code == Exit.FINDINGS, done.output
    report = json.loads(done.stdout)
    check_findings(hostile, report, difference)


def check_findings(hostile: HostileLedger, report: Any, difference: str) -> None:
    assert report["blocks"] >= hostile.height
    found = {(one["block"], one["transaction"]): one for one in report["findings"]}
    assert 0 < len(found) < len(hostile.recorded)
    names = {place: name for name, place in hostile.places.items()}
    assert any(difference in names[place] for place in found)
    for place, one in found.items():
        assert one["recorded"] == hostile.recorded[names[place]]
        assert one["found"] != one["recorded"]
        assert (one["recorded"] == "VALID") != (one["found"] == "VALID")
        assert HOSTILE in {one["sender"], *one["endorsers"]}
        assert len(one["agreed"]) > len(ORGANISATIONS) // 2


@pytest.mark.parametrize("difference", ["alternative names"], indirect=True)
def test_evidence_of_most_organisations_vouches_for_what_they_have_recorded(
    hostile: HostileLedger, difference: str, tmp_path: Path
) -> None:
    bundles = {one: tmp_path / f"{one}.bundle" for one in WITNESSES}
    for name, path in bundles.items():
        assert run("export", path, "--profile", hostile.profile(name)).exit_code == Exit.OK
    own = bundles[WITNESSES[0]]
    command: list[str | Path] = ["verify", own, "--json", "--genesis-hash", hostile.genesis_hash]
    assert isinstance(run(*command).exception, DisputedError)
    words = [word for name, path in bundles.items() for word in ("--witness", f"{name}={path}")]
    done = run(*command, *words)
    assert done.exit_code == Exit.FINDINGS, done.output
    check_findings(hostile, json.loads(done.stdout), difference)
