"""Configuration updates: allowed by the right signatures only, and leading to what comes with them."""

from __future__ import annotations

from typing import Any

import pytest
from fabric_protos.common import common_pb2, configtx_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.block import build_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update_rules import apply_config
from blockfl.fabric.errors import BlockError
from blockfl.fabric.validate import validate_block, validate_transaction
from support.config_updates import (
    BATCH_SIZE,
    MAJORITY,
    Edit,
    admin,
    config_transaction,
    raise_version,
    update_config,
)
from support.organisation import make_organisation
from support.recording import recorded_blocks
from support.replay import replayed
from support.scratch_ledger import ScratchLedger, genesis_config, organisations, scratch_ledger


@pytest.fixture
def ledger() -> ScratchLedger:
    return scratch_ledger()


def test_an_update_signed_by_the_majority_of_administrators_is_applied() -> None:
    config = genesis_config()
    new = apply_config(config, update_config(config))
    assert new.sequence == config.sequence + 1
    assert new.config.channel_group.groups["Orderer"].values[BATCH_SIZE].version == 1
    assert new.batch.max_message_count == config.batch.max_message_count + 1


def test_a_partial_write_set_leads_to_the_same_as_a_whole_one() -> None:
    config = genesis_config()

    def minimal(message: Any) -> None:
        whole = message.write_set
        changed = whole.groups["Orderer"].values[BATCH_SIZE]
        for tree in (message.read_set, message.write_set):
            skeleton = configtx_pb2.ConfigGroup(version=whole.version, mod_policy=whole.mod_policy)
            orderer = skeleton.groups["Orderer"]
            orderer.version = whole.groups["Orderer"].version
            orderer.mod_policy = whole.groups["Orderer"].mod_policy
            if tree is message.write_set:
                orderer.values[BATCH_SIZE].CopyFrom(changed)
            tree.CopyFrom(skeleton)

    envelope = update_config(config, update=minimal)
    assert apply_config(config, envelope).config == apply_config(config, update_config(config)).config


def test_an_update_need_not_name_what_it_read() -> None:
    config = genesis_config()

    def read_nothing(message: Any) -> None:
        message.ClearField("read_set")
        orderer = message.write_set.groups["Orderer"]
        changed = configtx_pb2.ConfigValue()
        changed.CopyFrom(orderer.values[BATCH_SIZE])
        message.write_set.CopyFrom(configtx_pb2.ConfigGroup())
        message.write_set.groups["Orderer"].values[BATCH_SIZE].CopyFrom(changed)

    # Without a read set every group that is written on the way counts as changed, at a version that is not its next.
    with pytest.raises(BlockError, match="the group /Channel"):
        apply_config(config, update_config(config, update=read_nothing))


def test_elements_of_old_without_a_modification_policy_get_the_default() -> None:
    config = genesis_config()
    old = configtx_pb2.Config()
    old.CopyFrom(config.config)
    old.channel_group.groups["Application"].policies["Readers"].mod_policy = ""
    old.channel_group.groups["Application"].groups["delta"].mod_policy = ""

    def repaired(envelope: Any) -> None:
        application = envelope.config.channel_group.groups["Application"]
        application.policies["Readers"].mod_policy = "Admins"
        application.groups["delta"].mod_policy = "Admins"

    made = update_config(ChannelConfig.from_config(old, config.channel_id), result=repaired)
    assert apply_config(ChannelConfig.from_config(old, config.channel_id), made).sequence == 1


def test_too_few_administrators_or_others_cannot_change_the_channel() -> None:
    config = genesis_config()
    clients = [organisations()[name].signer("user", "client") for name in MAJORITY]
    foreign = [admin("alpha"), admin("beta"), make_organisation("gamma").signer("admin", "admin")]
    twice = [admin("alpha"), admin("beta"), admin("beta")]
    for signers in ([], [admin("alpha"), admin("beta")], clients, foreign, twice):
        with pytest.raises(BlockError, match="do not satisfy 'Admins'"):
            apply_config(config, update_config(config, signers=signers))


def test_an_organisation_changes_its_own_part_alone_and_no_other() -> None:
    config = genesis_config()

    def anchors_of(name: str) -> Edit:
        def change(group: Any) -> None:
            value = group.groups["Application"].groups[name].values["AnchorPeers"]
            value.version += 1
            value.value = b""

        return change

    new = apply_config(config, update_config(config, anchors_of("beta"), signers=[admin("beta")]))
    assert new.application_organisations["beta"].anchor_peers == ()
    with pytest.raises(BlockError, match="/Channel/Application/gamma/AnchorPeers"):
        apply_config(config, update_config(config, anchors_of("gamma"), signers=[admin("beta")]))


def remove_organisation(group: Any) -> None:
    application = group.groups["Application"]
    application.version += 1
    del application.groups["delta"]


def test_an_organisation_can_be_removed() -> None:
    config = genesis_config()
    new = apply_config(config, update_config(config, remove_organisation))
    assert new.application_msp_ids == MAJORITY


def test_a_new_element_needs_no_policy_of_its_own_but_its_groups() -> None:
    config = genesis_config()

    def add_policy(group: Any) -> None:
        application = group.groups["Application"]
        application.version += 1
        application.policies["Another"].CopyFrom(application.policies["Readers"])

    assert "/Channel/Application/Another" in apply_config(config, update_config(config, add_policy)).policies
    with pytest.raises(BlockError, match="the group /Channel/Application"):
        apply_config(config, update_config(config, add_policy, signers=[admin("alpha")]))


def unversioned(group: Any) -> None:
    group.groups["Orderer"].values[BATCH_SIZE].value = b"\x08\x05"


def leap(group: Any) -> None:
    group.groups["Orderer"].values[BATCH_SIZE].version += 2


def new_at_version_one(group: Any) -> None:
    application = group.groups["Application"]
    application.version += 1
    application.policies["Another"].CopyFrom(application.policies["Readers"])
    application.policies["Another"].version = 1


def without_mod_policy(group: Any) -> None:
    raise_version(group)
    group.groups["Orderer"].values[BATCH_SIZE].mod_policy = ""


def unacceptable(group: Any) -> None:
    value = group.groups["Orderer"].values[BATCH_SIZE]
    value.version += 1
    value.value = b""


def without_orderers(group: Any) -> None:
    group.version += 1
    del group.groups["Orderer"]


def bad_name(group: Any) -> None:
    application = group.groups["Application"]
    application.version += 1
    application.policies["no spaces"].CopyFrom(application.policies["Readers"])


def bad_mod_policy(group: Any) -> None:
    raise_version(group)
    group.groups["Orderer"].values[BATCH_SIZE].mod_policy = "Admins//"


def swap_organisations(group: Any) -> None:
    for parent in (group.groups["Application"], group.groups["Orderer"]):
        names = ("alpha", "beta")
        values = [parent.groups[name].values["MSP"].value for name in names]
        for name, value in zip(names, reversed(values), strict=True):
            parent.groups[name].values["MSP"].value = value
            parent.groups[name].values["MSP"].version += 1


BROKEN: dict[str, tuple[str, dict[str, Any]]] = {
    "the sequence is another one": ("expected configuration sequence 1", {"result": "sequence"}),
    "the update is for another channel": (
        "expected a configuration update of channel 'scratch'",
        {"update": lambda message: setattr(message, "channel_id", "other")},
    ),
    "the update is no configuration update": ("got a transaction of type 3", {"wrapper_type": 3}),
    "nothing changes": ("changes nothing", {"change": lambda _: None}),
    "a value changes without its version": ("changes nothing", {"change": unversioned}),
    "a version leaps": ("gives the value /Channel/Orderer/BatchSize version 2", {"change": leap}),
    "a new element is not new": (
        "gives the policy /Channel/Application/Another version 1",
        {"change": new_at_version_one},
    ),
    "an element loses its modification policy": ("without a modification policy", {"change": without_mod_policy}),
    "the update read another version": (
        "at another version than it has",
        {"update": lambda message: setattr(message.read_set.groups["Application"], "version", 9)},
    ),
    "the update read what does not exist": (
        "at another version than it has",
        {"update": lambda message: message.read_set.groups["Application"].groups["omega"].SetInParent()},
    ),
    "an element has a name that is none": ("got 'no spaces'", {"change": bad_name}),
    "a modification policy has a name that is none": ("got 'Admins//'", {"change": bad_mod_policy}),
    "an organisation becomes another one": (
        "changes the MSP id of the organisation",
        {"change": swap_organisations},
    ),
    "the result is another one": ("does not lead to", {"result": "group"}),
    "the new configuration is not acceptable": ("not acceptable", {"change": unacceptable}),
    "the ordering nodes are gone": ("not acceptable", {"change": without_orderers}),
    "a signature was changed": ("do not satisfy", {"result": "signature"}),
}


def break_result(kind: str) -> Edit:
    def change(envelope: Any) -> None:
        if kind == "sequence":
            envelope.config.sequence += 1
        elif kind == "group":
            envelope.config.channel_group.groups["Application"].version += 1
        else:
            payload = common_pb2.Payload.FromString(envelope.last_update.payload)
            update = configtx_pb2.ConfigUpdateEnvelope.FromString(payload.data)
            update.signatures[1].signature = update.signatures[0].signature
            payload.data = update.SerializeToString()
            envelope.last_update.payload = payload.SerializeToString()

    return change


@pytest.mark.parametrize("what", BROKEN)
def test_one_broken_check_stops_the_configuration(what: str) -> None:
    says, changes = BROKEN[what]
    changes = dict(changes)
    if "result" in changes:
        changes["result"] = break_result(changes["result"])
    config = genesis_config()
    with pytest.raises(BlockError, match=says):
        apply_config(config, update_config(config, **changes))


@pytest.mark.parametrize("data", [b"\xff\xff", b"\x0a\x02\x08\x01", b""])
def test_what_is_no_configuration_is_refused(data: bytes) -> None:
    with pytest.raises(BlockError):
        apply_config(genesis_config(), data)


def test_a_configuration_block_changes_the_configuration(ledger: ScratchLedger) -> None:
    envelope = config_transaction(ledger.config, update_config(ledger.config))
    assert validate_transaction(envelope, ledger.config, ledger.state) == transaction_pb2.VALID
    validation = ledger.commit(envelope)
    assert validation.codes == (transaction_pb2.VALID,)
    assert ledger.config.sequence == 1
    assert validation.updates.encoded == b""


def test_an_endorsement_policy_follows_the_configuration(ledger: ScratchLedger) -> None:
    before = ledger.craft(endorsers=["alpha", "beta"])
    assert ledger.code(before) == "ENDORSEMENT_POLICY_FAILURE"
    ledger.commit(config_transaction(ledger.config, update_config(ledger.config, remove_organisation)))
    assert ledger.code(before) == "VALID"


def test_a_configuration_without_data_is_only_invalid(ledger: ScratchLedger) -> None:
    assert ledger.code(config_transaction(ledger.config, b"")) == "INVALID_CONFIG_TRANSACTION"


def test_a_configuration_from_an_unknown_creator_is_only_invalid(ledger: ScratchLedger) -> None:
    stranger = make_organisation("omega").signer("orderer1", "orderer")
    envelope = config_transaction(ledger.config, update_config(ledger.config), stranger)
    assert ledger.code(envelope) == "BAD_CREATOR_SIGNATURE"


def test_a_configuration_that_is_not_allowed_stops_the_ledger(ledger: ScratchLedger) -> None:
    envelope = config_transaction(ledger.config, update_config(ledger.config, signers=[]))
    with pytest.raises(BlockError, match="block 1: the configuration update changes"):
        ledger.validate(envelope)


def test_a_configuration_beside_other_transactions_stops_the_ledger(ledger: ScratchLedger) -> None:
    envelope = config_transaction(ledger.config, update_config(ledger.config))
    with pytest.raises(BlockError, match="beside 1 other transactions"):
        ledger.validate(envelope, ledger.craft())


@pytest.mark.parametrize("number", [66, 92])
def test_recorded_updates_are_refused_when_a_signature_of_theirs_is_missing(number: int) -> None:
    step = replayed().steps[number]
    block = recorded_blocks()[number]
    envelope = common_pb2.Envelope.FromString(block.data.data[0])
    data = common_pb2.Payload.FromString(envelope.payload).data
    assert apply_config(step.config, data).sequence == step.config.sequence + 1
    made = configtx_pb2.ConfigEnvelope.FromString(data)
    payload = common_pb2.Payload.FromString(made.last_update.payload)
    update = configtx_pb2.ConfigUpdateEnvelope.FromString(payload.data)
    del update.signatures[-1]
    payload.data = update.SerializeToString()
    made.last_update.payload = payload.SerializeToString()
    with pytest.raises(BlockError, match="do not satisfy"):
        apply_config(step.config, made.SerializeToString())


def test_block_0_is_not_a_configuration_update(ledger: ScratchLedger) -> None:
    block = recorded_blocks()[0]
    again = build_block(1, b"", block.data.data)
    assert validate_block(again, ledger.config, ledger.state).codes != (transaction_pb2.VALID,)
