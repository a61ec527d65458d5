"""A Fabric network that others have made: cryptogen, configtxgen, raft, an ordering organisation of its own.

Nothing of BlockFL's network tools is used: organisations are called Org1MSP as in most networks, the ordering nodes
belong to an organisation without a peer, and every file lies where Fabric's own tools put it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from examples.port_range import reserve_ports

from blockfl.network.binaries import find_binaries
from blockfl.network.errors import NetworkError
from blockfl.network.local import write_builder
from support.intermediate import issue_by_intermediates

CHANNEL = "trade.channel-1"
_TOOLS = ("peer", "orderer", "cryptogen", "configtxgen", "osnadmin")
_ORDERERS, _PORTS_OF_A_NODE = 3, 4
_READY_S, _PAUSE_S = 60.0, 0.3


def require_tools() -> Path:
    """The directory of Fabric's programs and tools; without them the test is skipped."""
    directory = os.environ.get("FABRIC_BIN", "")
    missing = [tool for tool in _TOOLS if not (Path(directory) / tool).is_file()] if directory else list(_TOOLS)
    if missing:
        pytest.skip(f"FABRIC_BIN does not name a directory with Fabric's {', '.join(missing)}")
    return Path(directory)


@dataclass(frozen=True, kw_only=True)
class ForeignPeer:
    """An organisation's peer, and the files of its administrator, as cryptogen left them."""

    msp_id: str
    domain: str
    port: int
    crypto: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def tls_roots(self) -> Path:
        return self.crypto / "tlsca" / f"tlsca.{self.domain}-cert.pem"

    def user_msp(self, user: str) -> Path:
        return self.crypto / "users" / f"{user}@{self.domain}" / "msp"

    def certificate(self, user: str = "Admin") -> Path:
        return next((self.user_msp(user) / "signcerts").iterdir())

    def key(self, user: str = "Admin") -> Path:
        return next((self.user_msp(user) / "keystore").iterdir())


@dataclass
class ForeignNetwork:
    """The running network.

    Args:
        directory: Where everything of it lies.
        tools: Fabric's programs.
        organisations: How many have a peer.
        peer_settings: Environment of each peer, by MSP id, beyond what it needs to run.
    """

    directory: Path
    tools: Path
    organisations: int
    peer_settings: dict[str, Mapping[str, str]] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._base = reserve_ports(_PORTS_OF_A_NODE * (_ORDERERS + self.organisations))
        self.peers = [
            ForeignPeer(
                msp_id=f"Org{number}MSP",
                domain=f"org{number}.test",
                port=self._base + _PORTS_OF_A_NODE * (_ORDERERS + number - 1),
                crypto=self.directory / "crypto" / "peerOrganizations" / f"org{number}.test",
            )
            for number in range(1, self.organisations + 1)
        ]

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        write_builder(self.directory / "builder")
        self._make_identities()
        self._make_block()
        for number in range(_ORDERERS):
            self._start_orderer(number)
        for peer in self.peers:
            self._start_peer(peer)
        for number in range(_ORDERERS):
            self._join_orderer(number)
        for peer in self.peers:
            self._join_peer(peer)
        self._wait_for_peers()

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(timeout=30)

    def restart_peers(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Stop the peers and start them with other settings for each MSP id, as their operators do."""
        running = self.processes[_ORDERERS:]
        del self.processes[_ORDERERS:]
        for process in running:
            process.terminate()
        for process in running:
            process.wait(timeout=30)
        for msp_id, changed in settings.items():
            self.peer_settings[msp_id] = {**self.peer_settings.get(msp_id, {}), **changed}
        for peer in self.peers:
            self._start_peer(peer)
        self._wait_for_peers()

    def _wait_for_peers(self) -> None:
        for peer in self.peers:
            self._retry(partial(self._peer_command, peer, "channel", "getinfo", "-c", CHANNEL))

    def _make_identities(self) -> None:
        hosts = ["127.0.0.1", "localhost"]
        description = {
            "OrdererOrgs": [
                {
                    "Name": "Ordering",
                    "Domain": "ordering.test",
                    "EnableNodeOUs": True,
                    "Specs": [{"Hostname": f"orderer{number}", "SANS": hosts} for number in range(_ORDERERS)],
                }
            ],
            "PeerOrgs": [
                {
                    "Name": peer.msp_id,
                    "Domain": peer.domain,
                    "EnableNodeOUs": True,
                    "Template": {"Count": 1, "SANS": hosts},
                    "Users": {"Count": 1},
                }
                for peer in self.peers
            ],
        }
        path = self.directory / "crypto-config.yaml"
        path.write_text(yaml.safe_dump(description))
        self._run("cryptogen", "generate", "--config", str(path), "--output", str(self.directory / "crypto"))
        # One organisation has its certificates from intermediate authorities.
        issue_by_intermediates(self.peers[-1].crypto)

    def _make_block(self) -> None:
        (self.directory / "configtx.yaml").write_text(yaml.safe_dump({"Profiles": {"Trade": self._profile()}}))
        arguments = ("-configPath", str(self.directory), "-profile", "Trade", "-channelID", CHANNEL)
        self._run("configtxgen", *arguments, "-outputBlock", str(self._block))

    @property
    def _block(self) -> Path:
        return self.directory / "trade.block"

    def _profile(self) -> dict[str, Any]:
        ordering = {
            "Name": "Ordering",
            "ID": "OrderingMSP",
            "MSPDir": str(self._ordering / "msp"),
            "Policies": _policies("OrderingMSP"),
            "OrdererEndpoints": [f"127.0.0.1:{self._orderer_port(number)}" for number in range(_ORDERERS)],
        }
        consenters = [
            {
                "Host": "127.0.0.1",
                "Port": self._orderer_port(number),
                "ClientTLSCert": str(self._orderer(number) / "tls" / "server.crt"),
                "ServerTLSCert": str(self._orderer(number) / "tls" / "server.crt"),
            }
            for number in range(_ORDERERS)
        ]
        members = [
            {
                "Name": peer.msp_id.removesuffix("MSP"),
                "ID": peer.msp_id,
                "MSPDir": str(peer.crypto / "msp"),
                "Policies": _policies(peer.msp_id),
                "AnchorPeers": [{"Host": "127.0.0.1", "Port": peer.port}],
            }
            for peer in self.peers
        ]
        majority = {"Type": "ImplicitMeta", "Rule": "MAJORITY Endorsement"}
        return {
            "Policies": _meta_policies(),
            "Capabilities": {"V3_0": True},
            "Orderer": {
                "OrdererType": "etcdraft",
                "BatchTimeout": "100ms",
                "BatchSize": {"MaxMessageCount": 500, "AbsoluteMaxBytes": "10 MB", "PreferredMaxBytes": "2 MB"},
                "EtcdRaft": {"Consenters": consenters},
                "Organizations": [ordering],
                "Policies": _meta_policies() | {"BlockValidation": {"Type": "ImplicitMeta", "Rule": "ANY Writers"}},
                "Capabilities": {"V2_0": True},
            },
            "Application": {
                "Organizations": members,
                "Policies": _meta_policies() | {"Endorsement": majority, "LifecycleEndorsement": majority},
                "Capabilities": {"V2_5": True},
            },
        }

    @property
    def _ordering(self) -> Path:
        return self.directory / "crypto" / "ordererOrganizations" / "ordering.test"

    def _orderer(self, number: int) -> Path:
        return self._ordering / "orderers" / f"orderer{number}.ordering.test"

    def _orderer_port(self, number: int) -> int:
        return self._base + _PORTS_OF_A_NODE * number

    def _start_orderer(self, number: int) -> None:
        files, data, port = self._orderer(number), self.directory / f"orderer{number}", self._orderer_port(number)
        certificate, key, roots = (str(files / "tls" / name) for name in ("server.crt", "server.key", "ca.crt"))
        settings = {
            "FABRIC_CFG_PATH": str(find_binaries().orderer_configuration),
            "FABRIC_LOGGING_SPEC": "warning",
            "ORDERER_GENERAL_LISTENADDRESS": "127.0.0.1",
            "ORDERER_GENERAL_LISTENPORT": str(port),
            "ORDERER_GENERAL_LOCALMSPID": "OrderingMSP",
            "ORDERER_GENERAL_LOCALMSPDIR": str(files / "msp"),
            "ORDERER_GENERAL_TLS_ENABLED": "true",
            "ORDERER_GENERAL_TLS_CERTIFICATE": certificate,
            "ORDERER_GENERAL_TLS_PRIVATEKEY": key,
            "ORDERER_GENERAL_TLS_ROOTCAS": f"[{roots}]",
            "ORDERER_GENERAL_CLUSTER_CLIENTCERTIFICATE": certificate,
            "ORDERER_GENERAL_CLUSTER_CLIENTPRIVATEKEY": key,
            "ORDERER_GENERAL_CLUSTER_ROOTCAS": f"[{roots}]",
            "ORDERER_GENERAL_BOOTSTRAPMETHOD": "none",
            "ORDERER_CHANNELPARTICIPATION_ENABLED": "true",
            "ORDERER_ADMIN_LISTENADDRESS": f"127.0.0.1:{port + 1}",
            "ORDERER_ADMIN_TLS_ENABLED": "true",
            "ORDERER_ADMIN_TLS_CERTIFICATE": certificate,
            "ORDERER_ADMIN_TLS_PRIVATEKEY": key,
            "ORDERER_ADMIN_TLS_CLIENTAUTHREQUIRED": "true",
            "ORDERER_ADMIN_TLS_CLIENTROOTCAS": f"[{roots}]",
            "ORDERER_OPERATIONS_LISTENADDRESS": f"127.0.0.1:{port + 2}",
            "ORDERER_FILELEDGER_LOCATION": str(data / "ledger"),
            "ORDERER_CONSENSUS_WALDIR": str(data / "wal"),
            "ORDERER_CONSENSUS_SNAPDIR": str(data / "snapshots"),
        }
        self._spawn(["orderer"], settings, self.directory / f"orderer{number}.log")

    def _start_peer(self, peer: ForeignPeer) -> None:
        files, data = peer.crypto / "peers" / f"peer0.{peer.domain}", self.directory / peer.msp_id
        builder = {
            "name": "ccaas",
            "path": str(self.directory / "builder"),
            "propagateEnvironment": ["CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG"],
        }
        settings = {
            **self._client_settings(peer, files / "msp"),
            "CORE_PEER_ID": f"peer0.{peer.domain}",
            "CORE_PEER_LISTENADDRESS": peer.address,
            "CORE_PEER_CHAINCODELISTENADDRESS": f"127.0.0.1:{peer.port + 1}",
            "CORE_OPERATIONS_LISTENADDRESS": f"127.0.0.1:{peer.port + 2}",
            "CORE_PEER_FILESYSTEMPATH": str(data / "ledger"),
            "CORE_LEDGER_SNAPSHOTS_ROOTDIR": str(data / "snapshots"),
            "CORE_PEER_GOSSIP_BOOTSTRAP": peer.address,
            "CORE_PEER_GOSSIP_ENDPOINT": peer.address,
            "CORE_PEER_GOSSIP_EXTERNALENDPOINT": peer.address,
            "CORE_PEER_TLS_CERT_FILE": str(files / "tls" / "server.crt"),
            "CORE_PEER_TLS_KEY_FILE": str(files / "tls" / "server.key"),
            "CORE_VM_ENDPOINT": "",
            "CORE_CHAINCODE_EXTERNALBUILDERS": json.dumps([builder]),
            **self.peer_settings.get(peer.msp_id, {}),
        }
        self._spawn(["peer", "node", "start"], settings, self.directory / f"{peer.msp_id}.log")

    def _client_settings(self, peer: ForeignPeer, msp: Path) -> dict[str, str]:
        return {
            "FABRIC_CFG_PATH": str(find_binaries().peer_configuration),
            "FABRIC_LOGGING_SPEC": "warning",
            "CORE_PEER_LOCALMSPID": peer.msp_id,
            "CORE_PEER_MSPCONFIGPATH": str(msp),
            "CORE_PEER_ADDRESS": peer.address,
            "CORE_PEER_TLS_ENABLED": "true",
            "CORE_PEER_TLS_ROOTCERT_FILE": str(peer.tls_roots),
        }

    def _join_orderer(self, number: int) -> None:
        tls = self._orderer(number) / "tls"
        command = (
            *("channel", "join", "--channelID", CHANNEL, "--config-block", str(self._block)),
            *("-o", f"127.0.0.1:{self._orderer_port(number) + 1}", "--ca-file", str(tls / "ca.crt")),
            *("--client-cert", str(tls / "server.crt"), "--client-key", str(tls / "server.key")),
        )
        self._retry(partial(self._run, "osnadmin", *command))

    def _join_peer(self, peer: ForeignPeer) -> None:
        self._retry(partial(self._peer_command, peer, "channel", "join", "-b", str(self._block)))

    def lifecycle(self, peer: ForeignPeer, command: str) -> None:
        """Run a command line of ``peer lifecycle chaincode`` as a peer's administrator.

        Raises:
            NetworkError: It fails.
        """
        _, *words = shlex.split(command)
        authority = self._orderer(0) / "tls" / "ca.crt"
        orderer = ("-o", f"127.0.0.1:{self._orderer_port(0)}", "--tls", "--cafile", str(authority))
        self._peer_command(peer, *words, *(() if "install" in words else orderer))

    def _peer_command(self, peer: ForeignPeer, *arguments: str) -> None:
        self._run("peer", *arguments, settings=self._client_settings(peer, peer.user_msp("Admin")))

    def _spawn(self, command: Sequence[str], settings: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self.processes.append(
                subprocess.Popen(
                    [str(self.tools / command[0]), *command[1:]],
                    env=_environment() | dict(settings),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )

    def _run(self, tool: str, *arguments: str, settings: Mapping[str, str] | None = None) -> None:
        environment = _environment() | dict(settings or {})
        command = [str(self.tools / tool), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise NetworkError(f"{' '.join(command)}: {done.stderr or done.stdout}")

    def _retry(self, act: Callable[[], None]) -> None:
        """Repeat a command until the node that it is for is ready."""
        deadline = time.monotonic() + _READY_S
        while True:
            try:
                act()
                return
            except NetworkError:
                if time.monotonic() > deadline or any(one.poll() is not None for one in self.processes):
                    raise
                time.sleep(_PAUSE_S)


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "GOGC": "50"}


def _policies(msp_id: str) -> dict[str, Any]:
    rules = {
        "Readers": f"OR('{msp_id}.member')",
        "Writers": f"OR('{msp_id}.member')",
        "Admins": f"OR('{msp_id}.admin')",
        "Endorsement": f"OR('{msp_id}.peer')",
    }
    return {name: {"Type": "Signature", "Rule": rule} for name, rule in rules.items()}


def _meta_policies() -> dict[str, Any]:
    rules = {"Readers": "ANY Readers", "Writers": "ANY Writers", "Admins": "MAJORITY Admins"}
    return {name: {"Type": "ImplicitMeta", "Rule": rule} for name, rule in rules.items()}


@contextmanager
def foreign_network(directory: Path, organisations: int) -> Iterator[ForeignNetwork]:
    """Make one with Fabric's own tools, and stop it."""
    network = ForeignNetwork(directory, require_tools(), organisations)
    try:
        network.start()
        yield network
    finally:
        network.stop()
