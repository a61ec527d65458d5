"""The genesis block equals the one that Fabric's own tool makes from the same description."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from fabric_protos.common import common_pb2, configtx_pb2
from fabric_protos.msp import msp_config_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2

from blockfl.fabric.channel.duration import format_duration
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.channel.spec import ChannelSpec, Consensus
from support.organisation import Organisation, channel_spec, make_organisation

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")


@pytest.fixture
def configtxgen() -> Path:
    directory = os.environ.get("FABRIC_BIN")
    if not directory:
        pytest.skip("FABRIC_BIN does not name a directory with Fabric's configtxgen")
    tool = Path(directory) / "configtxgen"
    if not tool.is_file():
        pytest.skip(f"no configtxgen in FABRIC_BIN ({directory})")
    return tool


@pytest.mark.parametrize("consensus", ["BFT", "etcdraft"])
def test_the_genesis_block_equals_the_one_of_configtxgen(
    configtxgen: Path, tmp_path: Path, consensus: Consensus
) -> None:
    organisations = [make_organisation(name) for name in NAMES]
    spec = channel_spec(*organisations, consensus=consensus)
    theirs = _run(configtxgen, tmp_path, spec, organisations)
    ours = build_genesis_block(spec)
    assert list(ours.metadata.metadata) == list(theirs.metadata.metadata)
    assert _plain(_config(ours)) == _plain(_config(theirs))
    assert _header(ours) == _header(theirs)


@pytest.mark.parametrize("consensus", ["BFT", "etcdraft"])
def test_configtxgen_reads_our_block(configtxgen: Path, tmp_path: Path, consensus: Consensus) -> None:
    block = build_genesis_block(channel_spec(*map(make_organisation, NAMES), consensus=consensus))
    path = tmp_path / "genesis.block"
    path.write_bytes(block.SerializeToString())
    (tmp_path / "configtx.yaml").write_text("Profiles: {}\n")
    command: list[str | Path] = [configtxgen, "-configPath", tmp_path, "-inspectBlock", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(f'"{name}"' in done.stdout for name in NAMES)


def _run(tool: Path, directory: Path, spec: ChannelSpec, organisations: list[Organisation]) -> Any:
    for organisation in organisations:
        _write_msp(directory / organisation.name, organisation)
    description = {"Profiles": {"Channel": _profile(directory, spec)}}
    (directory / "configtx.yaml").write_text(yaml.safe_dump(description))
    output = directory / "their.block"
    arguments: list[str | Path] = ["-configPath", directory, "-profile", "Channel", "-channelID", spec.channel_id]
    done = subprocess.run([tool, *arguments, "-outputBlock", output], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return common_pb2.Block.FromString(output.read_bytes())


def _write_msp(directory: Path, organisation: Organisation) -> None:
    for folder, pem in (
        ("cacerts", organisation.signing.certificate_pem),
        ("tlscacerts", organisation.tls.certificate_pem),
    ):
        (directory / folder).mkdir(parents=True)
        (directory / folder / "ca.pem").write_bytes(pem)
    units = {
        f"{role.title()}OUIdentifier": {"OrganizationalUnitIdentifier": role}
        for role in ("client", "peer", "admin", "orderer")
    }
    (directory / "config.yaml").write_text(yaml.safe_dump({"NodeOUs": {"Enable": True, **units}}))


def _meta(rule: str) -> dict[str, str]:
    return {"Type": "ImplicitMeta", "Rule": rule}


def _profile(directory: Path, spec: ChannelSpec) -> dict[str, Any]:
    common = {"Readers": _meta("ANY Readers"), "Writers": _meta("ANY Writers"), "Admins": _meta("MAJORITY Admins")}
    orderers = {one.name: one for one in spec.orderers}

    def organisation(name: str, *, orders: bool) -> dict[str, Any]:
        roles = {"Readers": "member", "Writers": "member", "Admins": "admin", "Endorsement": "peer"}
        entry: dict[str, Any] = {
            "Name": name,
            "ID": name,
            "MSPDir": str(directory / name),
            "Policies": {k: {"Type": "Signature", "Rule": f"OR('{name}.{v}')"} for k, v in roles.items()},
        }
        if orders:
            entry["OrdererEndpoints"] = [str(endpoint) for endpoint in orderers[name].orderer_endpoints]
        else:
            anchors = next(one for one in spec.application if one.name == name).anchor_peers
            entry["AnchorPeers"] = [{"Host": peer.host, "Port": peer.port} for peer in anchors]
        return entry

    return {
        "Policies": common,
        "Capabilities": {"V3_0": True},
        "Application": {
            "ACLs": dict(spec.acls),
            "Organizations": [organisation(one.name, orders=False) for one in spec.application],
            "Policies": {
                **common,
                "Endorsement": _meta("MAJORITY Endorsement"),
                "LifecycleEndorsement": _meta("MAJORITY Endorsement"),
            },
            "Capabilities": {"V2_5": True},
        },
        "Orderer": {
            **_consensus(directory, spec),
            "BatchTimeout": format_duration(round(spec.batch.timeout_s * 1000)),
            "BatchSize": {
                "MaxMessageCount": spec.batch.max_message_count,
                "AbsoluteMaxBytes": spec.batch.absolute_max_bytes,
                "PreferredMaxBytes": spec.batch.preferred_max_bytes,
            },
            "Organizations": [organisation(one.name, orders=True) for one in spec.orderers],
            "Policies": {
                **common,
                "BlockValidation": {"Type": "Signature", "Rule": f"OR('{spec.orderers[0].name}.orderer')"},
            },
            "Capabilities": {"V2_0": True},
        },
    }


def _consensus(directory: Path, spec: ChannelSpec) -> dict[str, Any]:
    nodes = []
    for consenter in spec.consenters:
        tls = directory / f"tls{consenter.id}.pem"
        tls.write_bytes(consenter.server_tls_certificate)
        identity = directory / f"identity{consenter.id}.pem"
        identity.write_bytes(consenter.identity_pem)
        node = {"Host": consenter.host, "Port": consenter.port, "ClientTLSCert": str(tls), "ServerTLSCert": str(tls)}
        if spec.consensus == "BFT":
            node |= {"ID": consenter.id, "MSPID": consenter.msp_id, "Identity": str(identity)}
        nodes.append(node)
    if spec.consensus == "etcdraft":
        options = {
            "TickInterval": format_duration(spec.raft.tick_interval_ms),
            "ElectionTick": spec.raft.election_tick,
            "HeartbeatTick": spec.raft.heartbeat_tick,
            "MaxInflightBlocks": spec.raft.max_inflight_blocks,
            "SnapshotIntervalSize": spec.raft.snapshot_interval_size_bytes,
        }
        return {"OrdererType": "etcdraft", "EtcdRaft": {"Consenters": nodes, "Options": options}}
    options = {}
    for name, value in vars(spec.bft).items():
        words = name.removesuffix("_ms").split("_")
        options["".join(map(str.title, words))] = format_duration(value) if name.endswith("_ms") else value
    return {"OrdererType": "BFT", "ConsenterMapping": nodes, "SmartBFT": options}


def _payload(block: Any) -> Any:
    return common_pb2.Payload.FromString(common_pb2.Envelope.FromString(block.data.data[0]).payload)


def _header(block: Any) -> Any:
    header = common_pb2.ChannelHeader.FromString(_payload(block).header.channel_header)
    for random in ("timestamp", "tx_id"):
        assert header.HasField(random) if random == "timestamp" else header.tx_id
        header.ClearField(random)
    return header


def _config(block: Any) -> Any:
    return configtx_pb2.ConfigEnvelope.FromString(_payload(block).data).config


def _plain(config: Any) -> Any:
    """The configuration with every map inside a value in a fixed order: Go writes them in any."""
    orderer, application = (config.channel_group.groups[name] for name in ("Orderer", "Application"))
    for organisation in (*orderer.groups.values(), *application.groups.values()):
        config_value = organisation.values["MSP"]
        msp = msp_config_pb2.MSPConfig.FromString(config_value.value)
        msp.config = _in_order(msp_config_pb2.FabricMSPConfig, msp.config)
        config_value.value = msp.SerializeToString(deterministic=True)
    acls = application.values["ACLs"]
    acls.value = _in_order(peer_pb2.ACLs, acls.value)
    return config


def _in_order(kind: Any, encoded: bytes) -> bytes:
    return bytes(kind.FromString(encoded).SerializeToString(deterministic=True))
