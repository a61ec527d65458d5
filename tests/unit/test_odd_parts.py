"""One organisation's odd part of the configuration takes nobody else's rights, and ends no audit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fabric_protos.common import common_pb2, configtx_pb2
from fabric_protos.msp import msp_config_pb2

from blockfl.audit.chain import ChainProof
from blockfl.fabric.channel.block import build_block, encode_last_config, header_hash, set_commit, sign_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.group import encode
from blockfl.fabric.channel.update_rules import apply_config
from blockfl.fabric.errors import BlockError, ConfigError, IdentityError
from blockfl.fabric.validate import validate_block
from blockfl.fabric.validate.memory_state import MemoryState
from support.config_updates import raise_version, update_config
from support.scratch_ledger import NAMES, organisations, scratch_ledger

Change = Callable[[Any], None]


def memberships(group: Any) -> list[Any]:
    """Where delta's membership stands: it endorses, and it runs an ordering node."""
    return [group.groups[kind].groups["delta"].values["MSP"] for kind in ("Application", "Orderer")]


def odd_membership(group: Any) -> None:
    """A membership with a revocation list that is none."""
    for value in memberships(group):
        config = msp_config_pb2.MSPConfig.FromString(value.value)
        fabric = msp_config_pb2.FabricMSPConfig.FromString(config.config)
        fabric.revocation_list.append(b"no list")
        config.config = fabric.SerializeToString()
        value.value = config.SerializeToString()


def odd_policy(group: Any) -> None:
    group.groups["Application"].groups["delta"].policies["Readers"].policy.value = b"\xff"


def changed_config(*changes: Change) -> Any:
    config = configtx_pb2.Config()
    config.CopyFrom(scratch_ledger().config.config)
    for change in changes:
        change(config.channel_group)
    return config


def read(*changes: Change, lenient: bool = True) -> ChannelConfig:
    return ChannelConfig.from_config(changed_config(*changes), "scratch", lenient=lenient)


@pytest.mark.parametrize(
    ("change", "what"),
    [(odd_membership, "the membership 'delta'"), (odd_policy, "the policy /Channel/Application/delta/Readers")],
    ids=["membership", "policy"],
)
def test_an_odd_part_is_named_and_the_others_are_read(change: Change, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        read(change, lenient=False)
    config = read(change)
    assert [part.what for part in config.unjudged] == [what]
    alpha = organisations()["alpha"].signer("user", "client").identity
    config.msps.validate(alpha)
    assert config.policies.satisfied_by("/Channel/Application/Readers", [alpha])


def test_nobody_of_an_odd_membership_is_recognised() -> None:
    config = read(odd_membership)
    delta = organisations()["delta"].signer("admin", "admin").identity
    with pytest.raises(IdentityError, match="nobody of 'delta' can be recognised"):
        config.msps.parse_and_validate(delta.serialized)
    for name in ("Readers", "Writers", "Admins"):
        assert not config.policies.satisfied_by(f"/Channel/Application/delta/{name}", [delta])


def test_an_odd_part_that_is_new_is_refused_and_one_that_stands_stops_no_update() -> None:
    ledger = scratch_ledger()
    with pytest.raises(BlockError, match="the membership 'delta' cannot be used"):
        apply_config(ledger.config, update_config(ledger.config, make_odd, signers=admins("delta")))
    current = read(odd_membership)
    assert apply_config(current, update_config(current, raise_version, signers=admins("alpha", "beta", "gamma")))


def make_odd(group: Any) -> None:
    odd_membership(group)
    for value in memberships(group):
        value.version += 1


def admins(*names: str) -> list[Any]:
    return [organisations()[name].signer("admin", "admin") for name in names]


def test_an_audit_names_an_odd_part_and_goes_on() -> None:
    genesis = first_block(odd_membership)
    proof = ChainProof(genesis_hash=header_hash(genesis.header), namespace="app")
    proof.add(genesis)
    assert [finding.block for finding in proof.findings] == [0]
    assert "the membership 'delta' cannot be used" in str(proof.findings[0])
    assert proof.config is not None
    state = MemoryState()
    first = validate_block(genesis, proof.config, state)
    state.apply(first.updates, first.tx_ids)
    envelope = scratch_ledger().craft([], creator=organisations()["delta"].signer("user", "client"))
    block = build_block(1, header_hash(genesis.header), [envelope])
    nodes = [organisations()[name].signer(f"orderer{at}", "orderer") for at, name in enumerate(NAMES[:3], start=1)]
    sign_block(block, nodes, last_config=0, identifiers=(1, 2, 3))
    validation = validate_block(block, proof.config, state)
    assert "nobody of 'delta'" in validation.reasons[0]
    set_commit(block, validation.filter, validation.commit_hash(b""))
    proof.add(block)
    assert proof.blocks == 2


def first_block(*changes: Change) -> Any:
    header = common_pb2.ChannelHeader(type=common_pb2.CONFIG, channel_id=scratch_ledger().config.channel_id)
    payload = common_pb2.Payload(header=common_pb2.Header(channel_header=encode(header)))
    payload.data = encode(configtx_pb2.ConfigEnvelope(config=changed_config(*changes)))
    block = build_block(0, b"", [encode(common_pb2.Envelope(payload=encode(payload)))])
    block.metadata.metadata[common_pb2.LAST_CONFIG] = encode_last_config(0)
    block.metadata.metadata[common_pb2.TRANSACTIONS_FILTER] = b"\0"
    return block
