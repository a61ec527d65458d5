from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from fabric_protos.common import common_pb2, configtx_pb2, configuration_pb2, policies_pb2
from fabric_protos.msp import msp_config_pb2
from fabric_protos.orderer.etcdraft import configuration_pb2 as etcdraft_pb2
from fabric_protos.orderer.smartbft import configuration_pb2 as smartbft_pb2

from blockfl.fabric.channel.config import (
    BLOCK_VALIDATION,
    DEFAULT_ACLS,
    ENDORSEMENT,
    LIFECYCLE_ENDORSEMENT,
    Address,
    BatchSettings,
    ChannelConfig,
    Consenter,
)
from blockfl.fabric.channel.duration import parse_duration
from blockfl.fabric.channel.genesis import build_genesis_block, verify_genesis_block
from blockfl.fabric.channel.spec import BftOptions, ChannelSpec, RaftOptions
from blockfl.fabric.errors import ConfigError
from blockfl.fabric.identity.membership import msp_config
from blockfl.fabric.identity.policy import SignedData, signature_policy
from blockfl.network.founding import LEADER_TIMEOUTS_S
from support.organisation import channel_spec, make_organisation
from support.recording import recorded_blocks

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")
ORGANISATIONS = tuple(make_organisation(name) for name in NAMES)
ALPHA, BETA = ORGANISATIONS[:2]
BFT = channel_spec(*ORGANISATIONS, consensus="BFT")
RAFT = channel_spec(*ORGANISATIONS)
BFT_BLOCK, RAFT_BLOCK = build_genesis_block(BFT), build_genesis_block(RAFT)


def _payload(block: Any) -> Any:
    return common_pb2.Payload.FromString(common_pb2.Envelope.FromString(block.data.data[0]).payload)


def _group(block: Any) -> Any:
    return configtx_pb2.ConfigEnvelope.FromString(_payload(block).data).config.channel_group


@pytest.mark.parametrize("block", [BFT_BLOCK, RAFT_BLOCK], ids=["BFT", "etcdraft"])
def test_block_0_has_the_form_that_nodes_want(block: Any) -> None:
    assert block.header.number == 0
    assert block.header.previous_hash == b""
    assert block.header.data_hash == hashlib.sha256(block.data.data[0]).digest()
    assert len(block.data.data) == 1
    assert [bytes(entry).hex() for entry in block.metadata.metadata] == ["0a020a00", "", "", "", ""]
    header = common_pb2.ChannelHeader.FromString(_payload(block).header.channel_header)
    nonce = common_pb2.SignatureHeader.FromString(_payload(block).header.signature_header).nonce
    assert (header.type, header.version, header.channel_id, header.epoch) == (common_pb2.CONFIG, 1, "testchannel", 0)
    assert header.tx_id == hashlib.sha256(nonce).hexdigest()
    assert header.timestamp.seconds > 0


def test_the_metadata_is_that_of_the_recorded_genesis_block() -> None:
    # The recorded copy is a peer's: it has put its validity flag in.
    recorded = [bytes(entry) for entry in recorded_blocks()[0].metadata.metadata]
    recorded[common_pb2.TRANSACTIONS_FILTER] = b""
    assert [bytes(entry) for entry in BFT_BLOCK.metadata.metadata] == recorded


def test_the_same_specification_nonce_and_time_make_the_same_block() -> None:
    blocks = [
        build_genesis_block(BFT, nonce=b"n" * 24, timestamp_s=1_700_000_000).SerializeToString() for _ in range(3)
    ]
    assert len(set(blocks)) == 1
    envelope = configtx_pb2.ConfigEnvelope.FromString(_payload(BFT_BLOCK).data)
    assert _payload(BFT_BLOCK).data == envelope.SerializeToString(deterministic=True)
    assert build_genesis_block(BFT).SerializeToString() != build_genesis_block(BFT).SerializeToString()


def test_the_channel_is_what_was_specified() -> None:
    config = ChannelConfig.from_block(BFT_BLOCK)
    assert config.application_msp_ids == tuple(sorted(NAMES))
    assert set(config.orderer_organisations) == set(NAMES[:4])
    assert config.consenters == BFT.consenters
    assert config.batch == BFT.batch
    assert dict(config.acls) == dict(DEFAULT_ACLS)
    assert config.application_organisations["beta"].anchor_peers == (Address(host="127.0.0.1", port=7101),)
    assert config.orderer_organisations["beta"].endpoints == ("127.0.0.1:7001",)
    assert config.capabilities == frozenset({"V3_0"})
    assert config.orderer_capabilities == frozenset({"V2_0"})
    assert config.application_capabilities == frozenset({"V2_5"})


def test_every_element_may_be_changed_by_administrators_only() -> None:
    def check(group: Any) -> int:
        elements = [group, *group.values.values(), *group.policies.values()]
        assert {element.mod_policy for element in elements} == {"Admins"}
        assert {element.version for element in elements} == {0}
        return len(elements) + sum(map(check, group.groups.values()))

    assert check(_group(BFT_BLOCK)) > 80


@pytest.mark.parametrize("path", [ENDORSEMENT, LIFECYCLE_ENDORSEMENT])
@pytest.mark.parametrize(("unit", "count", "enough"), [("peer", 2, False), ("peer", 3, True), ("client", 5, False)])
def test_a_majority_of_peers_endorses(path: str, unit: Any, count: int, enough: bool) -> None:
    policies = ChannelConfig.from_block(BFT_BLOCK).policies
    identities = [organisation.signer(unit, unit).identity for organisation in ORGANISATIONS[:count]]
    assert policies.satisfied_by(path, identities) == enough


@pytest.mark.parametrize(
    ("path", "unit", "count", "enough"),
    [
        ("/Channel/Application/Writers", "client", 1, True),
        ("/Channel/Application/Readers", "client", 1, True),
        ("/Channel/Application/Admins", "admin", 2, False),
        ("/Channel/Application/Admins", "admin", 3, True),
        ("/Channel/Application/Admins", "client", 5, False),
        ("/Channel/Orderer/Admins", "admin", 2, False),
        ("/Channel/Orderer/Admins", "admin", 3, True),
        ("/Channel/Admins", "admin", 2, False),
        ("/Channel/Admins", "admin", 3, True),
        ("/Channel/Writers", "client", 1, True),
    ],
)
def test_members_write_and_a_majority_of_administrators_rules(path: str, unit: Any, count: int, enough: bool) -> None:
    policies = ChannelConfig.from_block(BFT_BLOCK).policies
    identities = [organisation.signer(unit, unit).identity for organisation in ORGANISATIONS[:count]]
    assert policies.satisfied_by(path, identities) == enough


def test_under_bft_a_quorum_of_the_ordering_nodes_signs_blocks_and_nobody_else() -> None:
    policies = ChannelConfig.from_block(BFT_BLOCK).policies
    nodes = [one.signer(f"orderer{n}", "orderer") for n, one in enumerate(ORGANISATIONS[:4], start=1)]
    signed = [SignedData(node.identity.serialized, node.sign(b"block"), b"block") for node in nodes]
    policies.evaluate(BLOCK_VALIDATION, signed[1:])
    assert not policies.satisfied_by(BLOCK_VALIDATION, [node.identity for node in nodes[:2]])
    others = [one.signer("another", "orderer").identity for one in ORGANISATIONS[:4]]
    assert not policies.satisfied_by(BLOCK_VALIDATION, others)


@pytest.mark.parametrize(("nodes", "quorum"), [(4, 3), (5, 4), (6, 4), (7, 5)])
def test_the_quorum_is_the_one_that_orderers_compute(nodes: int, quorum: int) -> None:
    organisations = [*ORGANISATIONS[:4]]
    consenters = tuple(organisations[n % 4].consenter(n + 1, 7000 + n) for n in range(nodes))
    block = build_genesis_block(replace(BFT, consenters=consenters))
    policy = _group(block).groups["Orderer"].policies["BlockValidation"].policy
    assert policies_pb2.SignaturePolicyEnvelope.FromString(policy.value).rule.n_out_of.n == quorum


def test_the_block_validation_policy_has_the_form_of_the_recorded_one() -> None:
    recorded = _group(recorded_blocks()[0]).groups["Orderer"].policies["BlockValidation"].policy
    ours = _group(BFT_BLOCK).groups["Orderer"].policies["BlockValidation"].policy
    theirs, mine = (policies_pb2.SignaturePolicyEnvelope.FromString(one.value) for one in (recorded, ours))
    assert mine.rule == theirs.rule
    assert [one.principal_classification for one in mine.identities] == [
        one.principal_classification for one in theirs.identities
    ]


def test_under_raft_only_an_orderer_of_an_ordering_organisation_signs_blocks() -> None:
    policies = ChannelConfig.from_block(RAFT_BLOCK).policies
    assert policies.satisfied_by(BLOCK_VALIDATION, [ALPHA.signer("orderer1", "orderer").identity])
    assert not policies.satisfied_by(BLOCK_VALIDATION, [ALPHA.signer("anna", "client").identity])
    assert not policies.satisfied_by(BLOCK_VALIDATION, [BETA.signer("orderer1", "orderer").identity])


def test_bft_options_are_written_as_orderers_read_them() -> None:
    options = smartbft_pb2.Options.FromString(ChannelConfig.from_block(BFT_BLOCK).consensus_metadata)
    assert options.request_batch_max_interval == "50ms"
    assert options.request_forward_timeout == "1s"
    assert options.request_auto_remove_timeout == "3m0s"
    assert (options.leader_heartbeat_count, options.request_pool_size) == (10, 100_000)
    recorded = smartbft_pb2.Options.FromString(ChannelConfig.from_block(recorded_blocks()[0]).consensus_metadata)
    assert {field.name for field, _ in options.ListFields()} == {field.name for field, _ in recorded.ListFields()}


def test_raft_options_are_written_as_orderers_read_them() -> None:
    metadata = etcdraft_pb2.ConfigMetadata.FromString(ChannelConfig.from_block(RAFT_BLOCK).consensus_metadata)
    assert (metadata.options.tick_interval, metadata.options.election_tick) == ("100ms", 10)
    assert [(node.host, node.port) for node in metadata.consenters] == [("127.0.0.1", 7000)]


def _spec(**changes: Any) -> ChannelSpec:
    return replace(BFT, **changes)


def _first(**changes: Any) -> ChannelSpec:
    """The BFT channel with its first ordering node changed."""
    return _spec(consenters=(replace(BFT.consenters[0], **changes), *BFT.consenters[1:]))


def _raft_node(consenter: Consenter) -> ChannelSpec:
    return replace(RAFT, consenters=(consenter,))


def _same_authority() -> ChannelSpec:
    pem = ALPHA.signing.certificate_pem
    one = replace(BFT.application[0], msp_config=msp_config("alpha", [pem], [pem]))
    return replace(
        RAFT, application=(one,), orderers=(replace(one, orderer_endpoints=BFT.orderers[0].orderer_endpoints),)
    )


def _without_units() -> ChannelSpec:
    fabric = msp_config_pb2.FabricMSPConfig.FromString(ALPHA.msp_config().config)
    fabric.fabric_node_ous.ClearField("orderer_ou_identifier")
    config = msp_config_pb2.MSPConfig(config=fabric.SerializeToString())
    return _spec(application=(replace(BFT.application[0], msp_config=config),))


def _ed25519_node() -> Consenter:
    signer = ALPHA.signer("eddy", "orderer", key=ed25519.Ed25519PrivateKey.generate())
    return replace(BFT.consenters[0], identity_pem=signer.identity.certificate_pem)


BATCH = BFT.batch
DIFFERENT = replace(
    BFT.application[0], msp_config=ALPHA.msp_config(admins=[ALPHA.signer("x").identity.certificate_pem])
)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (_spec(channel_id=""), "channel id"),
        (_spec(channel_id="Upper"), "channel id"),
        (_spec(channel_id="a_b"), "channel id"),
        (_spec(channel_id="x" * 250), "channel id"),
        (_spec(application=()), "application organisation"),
        (_spec(orderers=()), "ordering organisation"),
        (_spec(application=(replace(BFT.application[0], name="a b"),)), "name of an organisation"),
        (_spec(application=(BFT.application[0],) * 2), "'alpha' twice"),
        (_spec(application=(BFT.application[0], replace(BFT.application[0], name="other"))), "MSP id 'alpha' twice"),
        (_spec(application=(DIFFERENT, *BFT.application[1:])), "same membership of 'alpha'"),
        (_spec(orderers=(replace(BFT.orderers[0], orderer_endpoints=()), *BFT.orderers[1:])), "endpoints"),
        (_spec(application=(replace(BFT.application[0], anchor_peers=(Address(host="", port=1),)),)), "host:port"),
        (_spec(application=(replace(BFT.application[0], anchor_peers=(Address(host="a", port=0),)),)), "host:port"),
        (_same_authority(), "two authorities"),
        (_without_units(), "node OUs"),
        (_spec(consensus="solo"), "'solo'"),
        (_spec(consenters=()), "at least one ordering node"),
        (_spec(consenters=BFT.consenters[:3]), "at least 4 ordering nodes"),
        (_first(id=0), "ids from 1"),
        (_first(id=2), "different ids"),
        (_first(msp_id="epsilon"), "to belong to one of"),
        (_first(msp_id="beta"), "identity of the ordering node 1 is refused"),
        (_first(identity_pem=b""), "identity of the ordering node 1 is refused"),
        (_first(identity_pem=ALPHA.signer("peer0", "peer").identity.certificate_pem), "unit 'orderer'"),
        (_spec(consenters=(_ed25519_node(), *BFT.consenters[1:])), "ECDSA"),
        (_first(port=7001), "own address"),
        (_first(server_tls_certificate=BFT.consenters[1].server_tls_certificate), "own TLS certificate"),
        (_first(host="other.example"), "for the host 'other.example'"),
        (_first(server_tls_certificate=ALPHA.signer("x").identity.certificate_pem), "TLS certificate .* is refused"),
        (_first(client_tls_certificate=b"none"), "TLS certificate .* is refused"),
        (_raft_node(replace(RAFT.consenters[0], server_tls_certificate=BETA.tls_certificate("x"))), "no chain"),
        (_spec(batch=replace(BATCH, max_message_count=0)), "batch sizes"),
        (_spec(batch=replace(BATCH, preferred_max_bytes=BATCH.absolute_max_bytes + 1)), "batch sizes"),
        (_spec(batch=replace(BATCH, timeout_s=0.0001)), "millisecond"),
        (_spec(bft=BftOptions(collect_timeout_ms=0)), "collect_timeout_ms"),
        (_spec(bft=BftOptions(request_forward_timeout_ms=5000)), "forward <= complain"),
        (_spec(bft=BftOptions(view_change_timeout_ms=1)), "resend interval"),
        (replace(RAFT, raft=RaftOptions(tick_interval_ms=0)), "tick_interval_ms"),
        (replace(RAFT, raft=RaftOptions(election_tick=1)), "election"),
        (_spec(acls={"peer/Propose": "/Channel/Application/Nobody"}), "Nobody"),
    ],
)
def test_a_specification_that_would_not_work_or_not_be_safe_is_refused(spec: ChannelSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_genesis_block(spec)


def test_five_seconds_of_a_leaders_silence_are_the_default() -> None:
    assert BftOptions.with_leader_timeout(5) == BftOptions()


@pytest.mark.parametrize("silence_s", [30, *LEADER_TIMEOUTS_S])
def test_a_longer_silence_of_the_leader_lengthens_all_that_depends_on_it(silence_s: int) -> None:
    block = build_genesis_block(_spec(bft=BftOptions.with_leader_timeout(silence_s)))
    options = smartbft_pb2.Options.FromString(ChannelConfig.from_block(block).consensus_metadata)
    told = (options.leader_heartbeat_timeout, options.request_complain_timeout, options.view_change_timeout)
    assert [parse_duration(text) for text in told] == [silence_s, silence_s - 2, silence_s + 5]


def test_batch_settings_are_kept() -> None:
    batch = BatchSettings(max_message_count=7, absolute_max_bytes=9000, preferred_max_bytes=8000, timeout_s=1.5)
    assert ChannelConfig.from_block(build_genesis_block(_spec(batch=batch))).batch == batch


def test_an_organisation_may_only_order() -> None:
    spec = replace(RAFT, application=RAFT.application[1:])
    config = ChannelConfig.from_block(build_genesis_block(spec))
    assert "alpha" not in config.application_msp_ids
    assert "alpha" in config.msps


def _rebuilt(block: Any, change: Callable[[Any], None]) -> Any:
    """A block with a change in its configuration and correct hashes."""
    payload = _payload(block)
    envelope = configtx_pb2.ConfigEnvelope.FromString(payload.data)
    change(envelope.config)
    payload.data = envelope.SerializeToString()
    data = common_pb2.Envelope(payload=payload.SerializeToString()).SerializeToString()
    changed = common_pb2.Block()
    changed.CopyFrom(block)
    changed.data.data[0] = data
    changed.header.data_hash = hashlib.sha256(data).digest()
    return changed


def _without_policy(path: str) -> Callable[[Any], None]:
    *groups, name = path.split("/")

    def change(config: Any) -> None:
        group = config.channel_group
        for part in groups:
            group = group.groups[part]
        del group.policies[name]

    return change


def _anybody_signs(config: Any) -> None:
    policy = config.channel_group.groups["Orderer"].policies["BlockValidation"].policy
    policy.type = policies_pb2.Policy.IMPLICIT_META
    policy.value = policies_pb2.ImplicitMetaPolicy(sub_policy="Writers").SerializeToString()


def _one_node_signs(config: Any) -> None:
    policy = config.channel_group.groups["Orderer"].policies["BlockValidation"].policy
    envelope = policies_pb2.SignaturePolicyEnvelope.FromString(policy.value)
    envelope.rule.n_out_of.n = 1
    policy.value = envelope.SerializeToString()


def _other_principals(config: Any) -> None:
    policy = config.channel_group.groups["Orderer"].policies["BlockValidation"].policy
    policy.value = signature_policy(3, NAMES[:4], "orderer").SerializeToString()


def _without_consenters(config: Any) -> None:
    del config.channel_group.groups["Orderer"].values["Orderers"]


def _three_consenters(config: Any) -> None:
    value = config.channel_group.groups["Orderer"].values["Orderers"]
    orderers = configuration_pb2.Orderers.FromString(value.value)
    del orderers.consenter_mapping[3]
    value.value = orderers.SerializeToString()


def _old_application(config: Any) -> None:
    value = config.channel_group.groups["Application"].values["Capabilities"]
    old = configuration_pb2.Capabilities(capabilities={"V2_0": configuration_pb2.Capability()})
    value.value = old.SerializeToString()


def _later_sequence(config: Any) -> None:
    config.sequence = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_policy("Admins"), "/Channel/Admins"),
        (_without_policy("Readers"), "/Channel/Readers"),
        (_without_policy("Writers"), "/Channel/Writers"),
        (_without_policy("Application/Endorsement"), "Application/Endorsement"),
        (_without_policy("Application/LifecycleEndorsement"), "LifecycleEndorsement"),
        (_without_policy("Application/Writers"), "Application/Writers"),
        (_without_policy("Orderer/BlockValidation"), "BlockValidation"),
        (_without_policy("Application/beta/Endorsement"), "beta/Endorsement"),
        (_without_policy("Orderer/beta/Writers"), "beta/Writers"),
        (_anybody_signs, "quorum"),
        (_one_node_signs, "quorum"),
        (_other_principals, "quorum"),
        (_without_consenters, "at least 4 BFT"),
        (_three_consenters, "at least 4 BFT"),
        (_old_application, "V2_5"),
        (_later_sequence, "sequence 0"),
    ],
)
def test_what_real_nodes_accept_in_silence_is_refused(change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        verify_genesis_block(_rebuilt(BFT_BLOCK, change))


def _metadata(count: int) -> Callable[[Any], None]:
    def change(block: Any) -> None:
        del block.metadata.metadata[count:]

    return change


def _number(block: Any) -> None:
    block.header.number = 1


def _previous(block: Any) -> None:
    block.header.previous_hash = b"x"


def _data(block: Any) -> None:
    block.data.data[0] += b"\x00"


def _two(block: Any) -> None:
    block.data.data.append(block.data.data[0])
    block.header.data_hash = hashlib.sha256(b"".join(block.data.data)).digest()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_metadata(0), "5 metadata entries, got 0"),
        (_metadata(2), "5 metadata entries, got 2"),
        (_number, "block 0"),
        (_previous, "previous hash"),
        (_data, "was changed"),
        (_two, "with one transaction"),
    ],
)
def test_a_block_0_that_stops_real_nodes_is_refused(change: Callable[[Any], None], message: str) -> None:
    block = common_pb2.Block()
    block.CopyFrom(BFT_BLOCK)
    change(block)
    with pytest.raises(ConfigError, match=message):
        verify_genesis_block(block)


def test_a_block_too_big_for_orderers_is_refused() -> None:
    admins = [ALPHA.signer(f"admin{n}", "admin").identity.certificate_pem for n in range(3)] * 600
    big = [replace(one, msp_config=ALPHA.msp_config(admins=admins)) for one in (RAFT.application[0], RAFT.orderers[0])]
    with pytest.raises(ConfigError, match="fewer organisations"):
        build_genesis_block(replace(RAFT, application=(big[0],), orderers=(big[1],)))


@pytest.mark.parametrize("block", [BFT_BLOCK, RAFT_BLOCK], ids=["BFT", "etcdraft"])
def test_a_good_block_is_accepted(block: Any) -> None:
    assert verify_genesis_block(common_pb2.Block.FromString(block.SerializeToString())).channel_id == "testchannel"
