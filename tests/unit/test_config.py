from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fabric_protos.common import common_pb2, configtx_pb2, configuration_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2
from fabric_protos.peer import configuration_pb2 as peer_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.channel.config import Address, ChannelConfig, is_config_block
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.errors import ConfigError
from support.organisation import channel_spec, make_organisation
from support.recording import recorded_blocks

ALPHA, BETA = make_organisation("alpha"), make_organisation("beta")
BLOCK = build_genesis_block(channel_spec(ALPHA, BETA))
HOSPITALS = ("HospitalAMSP", "HospitalBMSP", "HospitalCMSP")


def _config() -> Any:
    """A fresh copy of the configuration in BLOCK."""
    payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(BLOCK.data.data[0]).payload)
    return configtx_pb2.ConfigEnvelope.FromString(payload.data).config


def _recorded(number: int) -> ChannelConfig:
    return ChannelConfig.from_block(recorded_blocks()[number])


def test_the_recorded_genesis_block_is_read() -> None:
    config = _recorded(0)
    assert (config.channel_id, config.sequence, config.consensus_type) == ("fed", 0, "BFT")
    assert config.application_msp_ids == ("AggregatorMSP", *HOSPITALS)
    assert set(config.msps) == {"AggregatorMSP", *HOSPITALS, "OrdererMSP"}
    assert config.capabilities == {"V3_0"}
    assert config.orderer_capabilities == {"V2_0"}
    assert config.application_capabilities == {"V2_5"}
    assert config.application_organisations["HospitalA"].anchor_peers == (Address(host="127.0.0.1", port=37100),)
    assert config.orderer_organisations["Orderer"].endpoints == tuple(
        f"127.0.0.1:{port}" for port in (37010, 37020, 37030, 37040)
    )
    assert (config.batch.max_message_count, config.batch.timeout_s) == (50, 0.6)
    assert (config.batch.absolute_max_bytes, config.batch.preferred_max_bytes) == (10 << 20, 2 << 20)


def test_the_recorded_consenters_are_read_with_their_identities() -> None:
    config = _recorded(0)
    assert [consenter.id for consenter in config.consenters] == [1, 2, 3, 4]
    for consenter in config.consenters:
        assert config.msps["OrdererMSP"].role(consenter.identity) == "orderer"
        assert consenter.server_tls_certificate.startswith(b"-----BEGIN CERTIFICATE")
        assert config.consenter(consenter.id) is consenter
    assert config.consenter(5) is None


def test_recorded_configuration_updates_are_read() -> None:
    assert [block.header.number for block in recorded_blocks() if is_config_block(block)] == [0, 66, 92]
    joined, revoked = _recorded(66), _recorded(92)
    assert (joined.sequence, revoked.sequence) == (1, 2)
    assert joined.application_msp_ids == revoked.application_msp_ids == ("AggregatorMSP", *HOSPITALS, "HospitalDMSP")


def test_reading_a_configuration_does_not_change_it() -> None:
    for number in (0, 66, 92):
        config = _recorded(number)
        payload = common_pb2.Payload.FromString(
            common_pb2.Envelope.FromString(recorded_blocks()[number].data.data[0]).payload
        )
        config.acl_policy("peer/Propose")
        assert config.config == configtx_pb2.ConfigEnvelope.FromString(payload.data).config


def test_an_ordinary_block_is_no_configuration_block() -> None:
    with pytest.raises(ConfigError, match="expected a configuration"):
        _recorded(3)


def test_the_configuration_of_a_raft_channel_is_read() -> None:
    config = ChannelConfig.from_block(BLOCK)
    assert config.consensus_type == "etcdraft"
    (consenter,) = config.consenters
    assert (consenter.id, consenter.host, consenter.port) == (1, "127.0.0.1", 7000)
    with pytest.raises(ConfigError, match="only BFT"):
        _ = consenter.identity


def test_resources_are_guarded_as_the_configuration_or_else_peers_say() -> None:
    config = _config()
    rules = peer_pb2.ACLs(acls={"peer/Propose": peer_pb2.APIResource(policy_ref="Admins")})
    rules.acls["event/Block"].policy_ref = "/Channel/Readers"
    rules.acls["event/FilteredBlock"].policy_ref = ""
    config.channel_group.groups["Application"].values["ACLs"].value = rules.SerializeToString()
    read = ChannelConfig.from_config(config, "testchannel")
    assert read.acl_policy("peer/Propose") == "/Channel/Application/Admins"
    assert read.acl_policy("event/Block") == "/Channel/Readers"
    assert read.acl_policy("event/FilteredBlock") == "/Channel/Application/Readers"
    assert read.acl_policy("qscc/GetChainInfo") == "/Channel/Application/Readers"
    with pytest.raises(ConfigError, match="such as peer/Propose"):
        read.acl_policy("no/Such")


def _set(path: str, message: Any) -> Callable[[Any], None]:
    *groups, key = path.split("/")

    def change(group: Any) -> None:
        for name in groups:
            group = group.groups[name]
        group.values[key].value = message.SerializeToString()

    return change


def _drop(path: str) -> Callable[[Any], None]:
    *groups, key = path.split("/")

    def change(group: Any) -> None:
        for name in groups:
            group = group.groups[name]
        del group.values[key]

    return change


def _garbage(group: Any) -> None:
    group.groups["Application"].groups["alpha"].values["MSP"].value = b"\xff"


def _third_group(group: Any) -> None:
    group.groups["Consortiums"].version = 1


def _no_application(group: Any) -> None:
    del group.groups["Application"]


def _nested(group: Any) -> None:
    group.groups["Application"].groups["alpha"].groups["inner"].version = 1


def _bad_policy(group: Any) -> None:
    group.policies["Admins"].policy.value = b"\xff"


def _capabilities(*names: str) -> Any:
    return configuration_pb2.Capabilities(capabilities={name: configuration_pb2.Capability() for name in names})


def _size(count: int, absolute: int, preferred: int) -> Any:
    return orderer_pb2.BatchSize(max_message_count=count, absolute_max_bytes=absolute, preferred_max_bytes=preferred)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("HashingAlgorithm", configuration_pb2.HashingAlgorithm(name="SHA384")), "SHA384"),
        (_drop("HashingAlgorithm"), "HashingAlgorithm"),
        (_set("BlockDataHashingStructure", configuration_pb2.BlockDataHashingStructure(width=2)), "width"),
        (_set("OrdererAddresses", configuration_pb2.OrdererAddresses(addresses=["a:1"])), "per organisation"),
        (_set("Surprise", configuration_pb2.Consortium()), "Surprise"),
        (_set("Capabilities", _capabilities("V3_0", "V4_0")), "V4_0"),
        (_drop("Capabilities"), "channel capabilities"),
        (_set("Application/Capabilities", _capabilities("V1_3")), "application capabilities"),
        (_set("Orderer/BatchSize", _size(0, 10, 5)), "batch"),
        (_set("Orderer/BatchSize", _size(1, 5, 10)), "batch"),
        (_set("Orderer/BatchTimeout", orderer_pb2.BatchTimeout(timeout="soon")), "duration"),
        (_set("Orderer/BatchTimeout", orderer_pb2.BatchTimeout(timeout="-1s")), "batch"),
        (_drop("Orderer/ConsensusType"), "ConsensusType"),
        (_drop("Orderer/alpha/Endpoints"), "endpoints"),
        (_drop("Application/beta/MSP"), "MSP"),
        (_set("Application/alpha/MSP", ALPHA.msp_config(admins=[ALPHA.signer("x").identity.certificate_pem])), "two"),
        (_garbage, "MSP in alpha"),
        (_third_group, "Consortiums"),
        (_no_application, "got Orderer"),
        (_nested, "no groups inside"),
        (_bad_policy, "/Channel/Admins cannot be used"),
    ],
)
def test_a_configuration_that_peers_refuse_is_refused(change: Callable[[Any], None], message: str) -> None:
    config = _config()
    change(config.channel_group)
    with pytest.raises(ConfigError, match=message):
        ChannelConfig.from_config(config, "testchannel")


@given(st.binary(max_size=100))
def test_arbitrary_bytes_are_no_configuration(encoded: bytes) -> None:
    with pytest.raises(ConfigError):
        ChannelConfig.from_envelope(encoded)
    with pytest.raises(ConfigError):
        ChannelConfig.from_config_envelope(encoded, "testchannel")


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@given(st.integers(0, len(BLOCK.data.data[0]) - 1), st.integers(0, 255))
def test_a_changed_configuration_block_is_read_or_refused_by_name(position: int, byte: int) -> None:
    data = bytearray(BLOCK.data.data[0])
    data[position] = byte
    try:
        config = ChannelConfig.from_envelope(bytes(data))
    except ConfigError:
        return
    assert config.msps
