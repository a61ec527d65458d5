"""Configuration updates: the recorded ones come out again, signatures count, what is outdated or unsafe is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fabric_protos.common import common_pb2, configtx_pb2, configuration_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.channel.changes import (
    add_organisation,
    change_batch,
    change_consenters,
    change_orderer_endpoints,
    remove_organisation,
    revoke_certificates,
)
from blockfl.fabric.channel.config import BatchSettings, ChannelConfig
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.channel.spec import OrganisationSpec
from blockfl.fabric.channel.update import (
    build_update_envelope,
    compute_update,
    preview_update,
    read_signature,
    read_update,
    read_update_envelope,
    sign_update,
    verify_update,
)
from blockfl.fabric.channel.update_rules import propose_config
from blockfl.fabric.errors import ConfigError, IdentityError
from support.config_updates import admin
from support.organisation import channel_spec, make_organisation
from support.recording import recorded_blocks
from support.replay import replayed
from support.scratch_ledger import genesis_config, organisations

BATCH = BatchSettings(max_message_count=7, absolute_max_bytes=9_000_000, preferred_max_bytes=700, timeout_s=0.05)
Change = Callable[[ChannelConfig], Any]


def recorded_update(number: int) -> tuple[ChannelConfig, Any, bytes]:
    """The configuration before a recorded update, the one after it, and the update's envelope."""
    payload = common_pb2.Payload.FromString(
        common_pb2.Envelope.FromString(recorded_blocks()[number].data.data[0]).payload
    )
    made = configtx_pb2.ConfigEnvelope.FromString(payload.data)
    return replayed().steps[number].config, made.config, made.last_update.SerializeToString()


def update_of(config: ChannelConfig, wanted: Any) -> bytes:
    return compute_update(config.config, wanted, config.channel_id)


def signed_by(update: bytes, *names: str) -> list[bytes]:
    return [sign_update(update, admin(name)) for name in names]


def led_to(config: ChannelConfig, wanted: Any, names: Sequence[str] = ("alpha", "beta", "gamma")) -> ChannelConfig:
    """What the update from a configuration to another one leads to."""
    update = update_of(config, wanted)
    return verify_update(config, update, signed_by(update, *names))


def versionless(group: Any) -> Any:
    plain = configtx_pb2.ConfigGroup()
    plain.CopyFrom(group)
    _strip(plain)
    return plain


def _strip(group: Any) -> None:
    group.version = 0
    for member in (*group.values.values(), *group.policies.values()):
        member.version = 0
    for child in group.groups.values():
        _strip(child)


@pytest.mark.parametrize("number", [66, 92])
def test_a_recorded_update_comes_out_again_of_the_configurations_around_it(number: int) -> None:
    before, after, envelope = recorded_update(number)
    update, signatures = read_update_envelope(envelope)
    assert read_update(compute_update(before.config, after, before.channel_id)) == read_update(update)
    assert verify_update(before, update, signatures).config == after


@pytest.mark.parametrize("number", [66, 92])
def test_a_recorded_update_leads_to_the_recorded_configuration(number: int) -> None:
    before, after, envelope = recorded_update(number)
    proposed = propose_config(before, common_pb2.Envelope.FromString(envelope))
    assert proposed.config.config == after
    recorded = common_pb2.Payload.FromString(
        common_pb2.Envelope.FromString(recorded_blocks()[number].data.data[0]).payload
    )
    assert configtx_pb2.ConfigEnvelope.FromString(proposed.encoded) == configtx_pb2.ConfigEnvelope.FromString(
        recorded.data
    )


@pytest.mark.parametrize("number", [66, 92])
def test_a_recorded_update_needs_the_signatures_that_it_has(number: int) -> None:
    before, _, envelope = recorded_update(number)
    update, signatures = read_update_envelope(envelope)
    with pytest.raises(ConfigError, match="do not satisfy"):
        verify_update(before, update, signatures[:-1])


def test_three_of_four_administrators_are_enough_and_two_are_not() -> None:
    config = genesis_config()
    update = update_of(config, change_batch(config, BATCH))
    assert verify_update(config, update, signed_by(update, "alpha", "gamma", "delta")).batch == BATCH
    with pytest.raises(ConfigError, match=r"the signatures of alpha, gamma do not satisfy 'Admins'"):
        verify_update(config, update, signed_by(update, "alpha", "gamma"))
    with pytest.raises(ConfigError, match=r"the signatures of alpha, gamma do not satisfy 'Admins'"):
        verify_update(config, update, signed_by(update, "alpha", "gamma", "gamma"))


def test_a_client_is_no_administrator() -> None:
    config = genesis_config()
    update = update_of(config, change_batch(config, BATCH))
    client = sign_update(update, organisations()["delta"].signer("client", "client"))
    with pytest.raises(ConfigError, match="do not satisfy"):
        verify_update(config, update, [*signed_by(update, "alpha", "gamma"), client])


def test_an_update_of_an_older_configuration_is_refused() -> None:
    config = genesis_config()
    late = update_of(config, change_batch(config, BATCH))
    newer = led_to(config, change_batch(config, BatchSettings(**{**vars(BATCH), "max_message_count": 8})))
    with pytest.raises(ConfigError, match="gives the value /Channel/Orderer/BatchSize version 1"):
        verify_update(newer, late, signed_by(late, "alpha", "beta", "gamma"))


def test_an_update_that_adds_to_a_group_that_changed_meanwhile_is_refused() -> None:
    config = genesis_config()
    late = update_of(config, add_organisation(config, make_organisation("epsilon").spec()))
    newer = led_to(config, add_organisation(config, make_organisation("zeta").spec()))
    with pytest.raises(ConfigError, match="read the group /Channel/Application at another version"):
        verify_update(newer, late, signed_by(late, "alpha", "beta", "gamma"))


def test_an_update_of_another_channel_is_refused() -> None:
    config = genesis_config()
    update = compute_update(config.config, change_batch(config, BATCH), "elsewhere")
    with pytest.raises(ConfigError, match="of channel 'scratch', got 'elsewhere'"):
        verify_update(config, update, signed_by(update, "alpha", "beta", "gamma"))


def test_nothing_to_change_is_refused() -> None:
    config = genesis_config()
    with pytest.raises(ConfigError, match="differs from the one in force"):
        update_of(config, config.config)


def test_an_added_organisation_takes_part_afterwards() -> None:
    config, epsilon = genesis_config(), make_organisation("epsilon")
    new = led_to(config, add_organisation(config, epsilon.spec(anchor=7999)))
    assert new.application_msp_ids == ("alpha", "beta", "delta", "epsilon", "gamma")
    assert new.application_organisations["epsilon"].anchor_peers[0].port == 7999
    assert new.msps.parse_and_validate(epsilon.signer("client").identity.serialized).msp_id == "epsilon"
    assert new.config.channel_group.groups["Application"].version == 1
    with pytest.raises(IdentityError):
        config.msps.parse_and_validate(epsilon.signer("client").identity.serialized)


def test_a_removed_organisation_takes_no_part_any_more() -> None:
    config = genesis_config()
    new = led_to(config, remove_organisation(config, "delta"))
    assert new.application_msp_ids == ("alpha", "beta", "gamma")


def test_an_organisation_revokes_its_own_certificates_and_no_others_are_touched() -> None:
    config, delta = genesis_config(), organisations()["delta"]
    thief, honest = delta.signer("thief").identity, delta.signer("honest").identity
    config.msps.validate(thief)
    wanted = revoke_certificates(config, "delta", delta.signing.revoke([thief.certificate_pem]))
    with pytest.raises(ConfigError, match="/delta/MSP, for which the signatures of alpha, beta, gamma do not satisfy"):
        led_to(config, wanted)
    new = led_to(config, wanted, ["delta"])
    new.msps.validate(honest)
    with pytest.raises(IdentityError, match="revoked"):
        new.msps.validate(thief)
    both = delta.signing.revoke([thief.certificate_pem, honest.certificate_pem])
    last = led_to(new, revoke_certificates(new, "delta", both), ["delta"])
    for identity in (thief, honest):
        with pytest.raises(IdentityError, match="revoked"):
            last.msps.validate(identity)


def test_changes_of_ordering_nodes_come_with_the_policy_of_blocks() -> None:
    config, alpha = genesis_config(), organisations()["alpha"]
    fresh = alpha.consenter(9, 7999)
    new = led_to(config, change_consenters(config, [fresh, *config.consenters[1:]]))
    assert [consenter.id for consenter in new.consenters] == [9, 2, 3, 4]
    group = new.config.channel_group.groups["Orderer"]
    assert (group.values["Orderers"].version, group.policies["BlockValidation"].version, group.version) == (1, 1, 0)


def test_endpoints_of_ordering_nodes_can_change_with_the_consent_of_their_organisation_alone() -> None:
    config = genesis_config()
    addresses = [address for one in organisations()["alpha"].spec(orderer=7998).orderer_endpoints for address in (one,)]
    new = led_to(config, change_orderer_endpoints(config, "alpha", addresses), ["alpha"])
    assert new.orderer_organisations["alpha"].endpoints == ("127.0.0.1:7998",)


def unlisted() -> ChannelConfig:
    """A configuration in which delta has revoked a certificate."""
    config, delta = genesis_config(), organisations()["delta"]
    crl = delta.signing.revoke([delta.signer("thief").identity.certificate_pem])
    return ChannelConfig.from_config(revoke_certificates(config, "delta", crl), config.channel_id)


UNSAFE: dict[str, tuple[Change, str]] = {
    "an organisation twice": (
        lambda config: add_organisation(config, organisations()["beta"].spec()),
        "not on the channel yet, got 'beta'",
    ),
    "an MSP id twice": (
        lambda config: add_organisation(
            config, OrganisationSpec(name="other", msp_config=organisations()["beta"].msp_config())
        ),
        "not on the channel yet, got 'other'",
    ),
    "a bad name": (
        lambda config: add_organisation(
            config, OrganisationSpec(name="a b", msp_config=make_organisation("epsilon").msp_config())
        ),
        "expected the name of an organisation",
    ),
    "an ordering organisation without endpoints": (
        lambda config: add_organisation(config, make_organisation("epsilon").spec(), orders=True),
        "endpoints of the ordering organisation 'epsilon'",
    ),
    "the same membership, written differently, in both groups": (
        lambda config: add_organisation(
            config,
            OrganisationSpec(
                name="alpha2",
                msp_config=organisations()["alpha"].msp_config(admins=[]),
                orderer_endpoints=organisations()["alpha"].spec(orderer=7001).orderer_endpoints,
            ),
            orders=True,
        ),
        "not on the channel yet",
    ),
    "nobody to remove": (lambda config: remove_organisation(config, "omega"), "got 'omega'"),
    "an orderer that still has nodes": (
        lambda config: remove_organisation(config, "alpha", orders=True),
        "still has ordering nodes",
    ),
    "a revocation list that is none": (
        lambda config: revoke_certificates(config, "delta", b"list"),
        "expected a certificate revocation list in PEM",
    ),
    "a revocation list of somebody else": (
        lambda config: revoke_certificates(config, "delta", organisations()["beta"].signing.revoke([])),
        "of an authority that signs for 'delta'",
    ),
    "a revocation list of nobody on the channel": (
        lambda config: revoke_certificates(config, "omega", organisations()["beta"].signing.revoke([])),
        "got 'omega'",
    ),
    "a revocation list that takes one back": (
        lambda _: revoke_certificates(unlisted(), "delta", organisations()["delta"].signing.revoke([])),
        "names every certificate revoked before",
    ),
    "a batch of nothing": (
        lambda config: change_batch(config, BatchSettings(**{**vars(BATCH), "max_message_count": 0})),
        "expected positive batch sizes",
    ),
    "too few ordering nodes": (
        lambda config: change_consenters(config, config.consenters[:3]),
        "at least 4 ordering nodes",
    ),
    "an ordering node of nobody": (
        lambda config: change_consenters(config, [*config.consenters, make_organisation("omega").consenter(5, 7005)]),
        "TLS certificate of the ordering node 127.0.0.1:7005 is refused",
    ),
    "no endpoint": (lambda config: change_orderer_endpoints(config, "alpha", []), "and its addresses"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_a_change_that_would_break_the_channel_is_refused_with_its_reason(case: str) -> None:
    change, reason = UNSAFE[case]
    with pytest.raises(ConfigError, match=reason):
        change(genesis_config())


def test_raft_changes_one_ordering_node_at_a_time() -> None:
    alpha = organisations()["alpha"]
    config = ChannelConfig.from_block(build_genesis_block(channel_spec(*organisations().values())))
    wider = led_to(config, change_consenters(config, [*config.consenters, alpha.consenter(2, 7012)]))
    assert [consenter.port for consenter in wider.consenters] == [7000, 7012]
    with pytest.raises(ConfigError, match="raft changes one node at a time"):
        change_consenters(config, [*config.consenters, alpha.consenter(2, 7012), alpha.consenter(3, 7013)])


@pytest.mark.parametrize("what", ["capabilities", "organisations"])
def test_ordering_nodes_refuse_what_they_could_not_order_under_and_peers_do_not_look(what: str) -> None:
    config = genesis_config()
    wanted = configtx_pb2.Config()
    wanted.CopyFrom(config.config)
    ordering = wanted.channel_group.groups["Orderer"]
    if what == "capabilities":
        stated = configuration_pb2.Capabilities(capabilities={"V3_0": configuration_pb2.Capability()})
        ordering.values["Capabilities"].value = stated.SerializeToString()
    else:
        ordering.ClearField("groups")
    update = update_of(config, wanted)
    with pytest.raises(ConfigError, match={"capabilities": "V3_0", "organisations": "no organisation"}[what]):
        verify_update(config, update, signed_by(update, "alpha", "beta", "gamma", "delta"))
    assert preview_update(config, update).sequence == config.sequence + 1  # as peers see it


def test_an_envelope_holds_the_update_and_its_signatures() -> None:
    config = genesis_config()
    update = update_of(config, change_batch(config, BATCH))
    signatures = signed_by(update, "alpha", "beta", "gamma")
    client = organisations()["alpha"].signer("client")
    envelope = build_update_envelope(update, signatures, client)
    assert read_update_envelope(envelope) == (update, tuple(signatures))
    assert propose_config(config, common_pb2.Envelope.FromString(envelope)).config.batch == BATCH


def test_a_signature_over_another_update_is_refused_by_name() -> None:
    config = genesis_config()
    update = update_of(config, change_batch(config, BATCH))
    other = update_of(config, remove_organisation(config, "delta"))
    (signature,) = signed_by(other, "alpha")
    assert read_signature(signature, other) == admin("alpha").identity
    for refuse in (
        lambda: read_signature(signature, update),
        lambda: verify_update(config, update, [signature]),
        lambda: build_update_envelope(update, [signature], admin("alpha")),
    ):
        with pytest.raises(ConfigError, match="a signature over this configuration update"):
            refuse()


@given(st.binary(max_size=80))
def test_bytes_that_are_no_update_are_refused(data: bytes) -> None:
    for read in (read_update_envelope, read_update, lambda encoded: read_signature(encoded, b"update")):
        with pytest.raises(ConfigError, match="expected"):
            read(data)


MEMBERS = st.dictionaries(
    st.sampled_from("abc"), st.builds(lambda v: configtx_pb2.ConfigValue(value=v, mod_policy="Admins"), st.binary())
)
GROUPS = st.recursive(
    st.builds(lambda values: configtx_pb2.ConfigGroup(values=values, mod_policy="Admins"), MEMBERS),
    lambda children: st.builds(
        lambda values, groups, name: configtx_pb2.ConfigGroup(values=values, groups=groups, mod_policy=name),
        MEMBERS,
        st.dictionaries(st.sampled_from("xyz"), children, max_size=2),
        st.sampled_from(["Admins", "Others"]),
    ),
    max_leaves=6,
)


@given(GROUPS, GROUPS)
def test_an_update_leads_from_any_configuration_to_any_other(first: Any, second: Any) -> None:
    """Applied by a reader of its own: what is written with another version replaces, what a group lacks goes."""
    if versionless(first) == versionless(second):
        return
    update = read_update(
        compute_update(configtx_pb2.Config(channel_group=first), configtx_pb2.Config(channel_group=second), "any")
    )
    assert versionless(_applied(first, update.read_set, update.write_set)) == versionless(second)


def _applied(group: Any, read: Any, written: Any) -> Any:
    result = configtx_pb2.ConfigGroup()
    replaced = written.version != group.version
    result.mod_policy = written.mod_policy if replaced else group.mod_policy
    for name in ("values", "policies"):
        old, new, target = getattr(group, name), getattr(written, name), getattr(result, name)
        for key in new if replaced else {**old, **new}:
            same = key in old and (key not in new or new[key].version == old[key].version)
            target[key].CopyFrom(old[key] if same else new[key])
    for key in written.groups if replaced else {**group.groups, **written.groups}:
        if key not in group.groups:
            result.groups[key].CopyFrom(written.groups[key])
        elif key not in written.groups:
            result.groups[key].CopyFrom(group.groups[key])
        else:
            result.groups[key].CopyFrom(_applied(group.groups[key], read.groups[key], written.groups[key]))
    return result
