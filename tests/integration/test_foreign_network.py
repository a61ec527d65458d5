"""A network that Fabric's own tools made takes BlockFL on by the documented commands, and rounds run on it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from examples.port_range import reserve_ports
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.upgrade import Upgrade
from blockfl.protocol import catalogue
from blockfl.protocol.records import Consortium, Round
from support.federation_processes import FederationProcesses
from support.foreign_network import CHANNEL, ForeignNetwork, ForeignPeer, foreign_network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROLES = {
    "coordinator": ("coordinator", "committee"),
    "regulator": ("committee", "institution"),
    "university": ("committee", "institution"),
    "hospital": ("institution",),
}
"""By the names that the organisations have here; the channel knows Org1MSP to Org4MSP."""
INSTITUTIONS = ("regulator", "university", "hospital")
ROUNDS, DIMENSION = 2, 300


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignNetwork]:
    with foreign_network(tmp_path_factory.mktemp("foreign") / "network", len(ROLES)) as running:
        yield running


def save_profile(peer: ForeignPeer, path: Path) -> Path:
    """What an operator writes about a peer and its administrator: where they are, and where the files lie."""
    ConnectionProfile(
        network="trade",
        channel=CHANNEL,
        contract="blockfl",
        organisation=peer.msp_id,
        endpoint=peer.address,
        tls_roots=str(peer.tls_roots),
        certificate=str(peer.certificate()),
        private_key=str(peer.key()),
    ).save(path)
    return path


def check(peer: ForeignPeer, directory: Path) -> tuple[int, list[dict[str, Any]]]:
    profile = save_profile(peer, directory / "admin.json")
    result = CliRunner().invoke(app, ["network", "check", "--json", "--profile", str(profile)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, json.loads(result.stdout)


class Adoption(FederationProcesses):
    """BlockFL on the network of others: each organisation's part in a directory of its own."""

    def __init__(self, directory: Path, foreign: ForeignNetwork) -> None:
        super().__init__(directory, reserve_ports(10 * len(ROLES)), "local")
        self.institutions = INSTITUTIONS
        self.peers = dict(zip(ROLES, foreign.peers, strict=True))

    def part(self, name: str) -> Path:
        return self.network / "organisations" / name

    def agree(self) -> Path:
        """The record that everybody gets."""
        record = self.directory / "consortium.json"
        members = [f"--member={self.peers[name].msp_id}={','.join(roles)}" for name, roles in ROLES.items()]
        self.blockfl("network", "terms", *members, "--network", "trade", "--channel", CHANNEL, "-o", str(record))
        return record

    def adopt(self, record: Path) -> dict[str, dict[str, str]]:
        """Adopt for each organisation; what its peer must be told."""
        for number, (name, peer) in enumerate(self.peers.items()):
            access = {
                "--msp-id": peer.msp_id,
                "--peer": peer.address,
                "--tls-roots": peer.tls_roots,
                "--certificate": peer.certificate(),
                "--key": peer.key(),
                "--agent-certificate": peer.certificate("User1"),
                "--agent-key": peer.key("User1"),
                "--base-port": self.base_port + 10 * number,
                "--consortium": record,
            }
            options = [str(word) for pair in access.items() for word in pair]
            self.blockfl("network", "adopt", name, "-d", str(self.part(name)), *options)
        return {peer.msp_id: read_environment(self.part(name) / "peer.env") for name, peer in self.peers.items()}

    def up(self) -> None:
        """Every organisation brings its own part up, and waits for the others."""
        command = [sys.executable, "-m", "blockfl.cli.main", "network", "up", "--timeout", "240", "-d"]
        started = {
            name: subprocess.Popen([*command, str(self.part(name))], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
            for name in ROLES
        }
        for name, process in started.items():
            _, said = process.communicate(timeout=300)
            assert process.returncode == 0, f"{name}: {said.decode()}"

    def down(self) -> None:
        self.end_agents()
        for name in ROLES:
            if (self.part(name) / "adopted.json").exists():
                self.blockfl("network", "down", "-d", str(self.part(name)), "--yes")


def read_environment(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())


def approve_with_fabrics_own_command(foreign: ForeignNetwork, adoption: Adoption, name: str) -> set[str]:
    """One organisation installs and approves by ``peer lifecycle``; who has approved what BlockFL would approve?"""
    command = ["network", "contract", "export", "-d", str(adoption.part(name)), "-o", str(adoption.directory), "--json"]
    exported = json.loads(CliRunner().invoke(app, command).stdout)
    for step in ("install", "approve"):
        foreign.lifecycle(adoption.peers[name], exported[step])
    profile = ConnectionProfile.load(adoption.part(name) / "profiles" / "admin.json")
    consortium = Consortium.decode((adoption.part(name) / "consortium.json").read_bytes())

    async def read() -> dict[str, bool]:
        upgrade = Upgrade(profile, consortium)
        return await upgrade.read_approvals(await upgrade.plan())

    return {msp_id for msp_id, done in asyncio.run(read()).items() if done}


async def read_rounds(profile: ConnectionProfile) -> Sequence[Round]:
    async with Ledger(profile) as ledger:
        return await ledger.read_all(catalogue.ROUNDS.below("trade"))


def test_what_does_not_fit_is_named_and_when_it_is_mended_rounds_run(network: ForeignNetwork, tmp_path: Path) -> None:
    code, misfits = check(network.peers[0], tmp_path)
    assert code == 1
    windows = [f"time window of {peer.msp_id}'s peer {peer.address}" for peer in network.peers]
    assert sorted(one["what"] for one in misfits) == windows

    adoption = Adoption(tmp_path, network)
    network.restart_peers(adoption.adopt(adoption.agree()))
    assert check(network.peers[1], tmp_path) == (0, [])
    try:
        assert approve_with_fabrics_own_command(network, adoption, "hospital") == {"Org4MSP"}
        adoption.up()
        adoption.up()  # again: what is done stays as it is
        adoption.start_aggregators(("coordinator", "regulator", "university"))
        adoption.create_task("trade", dimension=DIMENSION, rounds=ROUNDS)
        adoption.start_institutions("trade", dimension=DIMENSION)
        adoption.wait_for_institutions("trade")
        rounds = asyncio.run(read_rounds(adoption.profile("hospital")))
        assert [one.state for one in rounds] == ["published"] * ROUNDS
        assert {one.accepted for one in rounds} == {("Org2MSP", "Org3MSP", "Org4MSP")}
        assert adoption.query("audit", "verify", organisation="regulator")["verified"] is True
    finally:
        adoption.down()


def test_an_organisation_that_is_no_member_adopts_nothing(network: ForeignNetwork, tmp_path: Path) -> None:
    record = tmp_path / "consortium.json"
    members = ["--member=Org1MSP=coordinator,committee", "--member=Org2MSP=committee,institution"]
    made = ["network", "terms", *members, "--network", "trade", "--channel", CHANNEL, "-o", str(record)]
    assert CliRunner().invoke(app, made).exit_code == 0
    peer = network.peers[2]
    command = ["network", "adopt", "third", "-d", str(tmp_path / "third"), "--msp-id", peer.msp_id]
    command += ["--peer", peer.address, "--tls-roots", str(peer.tls_roots), "--consortium", str(record)]
    command += ["--certificate", str(peer.certificate()), "--key", str(peer.key())]
    command += ["--agent-certificate", str(peer.certificate("User1")), "--agent-key", str(peer.key("User1"))]
    result = CliRunner().invoke(app, command)
    assert result.exit_code != 0
    assert "Org3MSP is no member of the consortium" in str(result.exception)
