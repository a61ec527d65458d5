"""What administrators are told before they sign: every difference between two configurations, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from fabric_protos.common import configtx_pb2, policies_pb2

from blockfl.fabric.channel.changes import (
    add_organisation,
    change_batch,
    change_consenters,
    change_orderer_endpoints,
    remove_organisation,
    revoke_certificates,
)
from blockfl.fabric.channel.config import BatchSettings, ChannelConfig
from blockfl.fabric.channel.difference import describe_difference, list_revoked, read_membership
from blockfl.fabric.channel.update import compute_update, preview_update, sign_update
from blockfl.fabric.errors import ConfigError
from blockfl.fabric.identity.membership import msp_config
from support.config_updates import admin
from support.organisation import make_organisation
from support.scratch_ledger import genesis_config, organisations

BATCH = BatchSettings(max_message_count=7, absolute_max_bytes=9_000_000, preferred_max_bytes=700, timeout_s=0.05)


def after(config: ChannelConfig, wanted: Any) -> ChannelConfig:
    """What an update leads to, unsigned."""
    return preview_update(config, compute_update(config.config, wanted, config.channel_id))


def described(wanted: Callable[[ChannelConfig], Any]) -> tuple[str, ...]:
    config = genesis_config()
    return describe_difference(config, after(config, wanted(config)))


def fingerprint(authority: Any) -> str:
    return str(authority.certificate.fingerprint(hashes.SHA256()).hex())


def test_the_same_configuration_has_no_differences() -> None:
    assert describe_difference(genesis_config(), genesis_config()) == ()


def test_an_organisation_that_joins_is_told_with_its_authorities_fingerprints() -> None:
    epsilon = make_organisation("epsilon")
    assert described(lambda config: add_organisation(config, epsilon.spec(anchor=7999))) == (
        f"the organisation epsilon joins (peers): authority {fingerprint(epsilon.signing)}, of TLS "
        f"{fingerprint(epsilon.tls)}",
    )


def test_an_organisation_that_leaves_is_told() -> None:
    said = described(lambda config: remove_organisation(config, "delta"))
    assert said == ("the organisation delta leaves (peers)",)


def test_revoked_certificates_are_told_by_their_serial_numbers_and_once() -> None:
    alpha = organisations()["alpha"]
    certificates = [alpha.signer(name).identity for name in ("thief", "careless")]
    crl = alpha.signing.revoke([one.certificate_pem for one in certificates])
    # It orders, too, and so its membership stands in two groups.
    said = described(lambda config: revoke_certificates(config, "alpha", crl))
    serials = sorted(one.certificate.serial_number for one in certificates)
    assert said == tuple(f"alpha revokes the certificate with serial number {serial:x}" for serial in serials)


def test_a_certificate_that_comes_back_is_told_and_so_is_a_renewed_list() -> None:
    config, delta = genesis_config(), organisations()["delta"]
    thief = delta.signer("thief").identity
    crl = delta.signing.revoke([thief.certificate_pem])
    revoked = after(config, revoke_certificates(config, "delta", crl))
    assert list_revoked(read_membership(revoked, "delta")) == (thief.certificate.serial_number,)
    assert describe_difference(revoked, config) == (
        f"delta no longer revokes the certificate with serial number {thief.certificate.serial_number:x}",
    )
    renewed = delta.signing.revoke([], serial_numbers=[thief.certificate.serial_number])
    again = after(revoked, revoke_certificates(revoked, "delta", renewed))
    assert describe_difference(revoked, again) == ("delta renews its revocation list",)


def test_serial_numbers_of_one_authority_are_not_those_of_another() -> None:
    delta, other = organisations()["delta"], make_organisation("delta")
    lists = [one.signing.revoke([one.signer("thief").identity.certificate_pem]) for one in (delta, other)]
    roots = [delta.signing.certificate_pem, other.signing.certificate_pem]
    membership = msp_config("delta", roots, [delta.tls.certificate_pem], crls=lists)
    serials = [one.signer("thief").identity.certificate.serial_number for one in (delta, other)]
    assert list_revoked(membership) == tuple(sorted(serials))
    assert list_revoked(membership, delta.signing) == (serials[0],)


def test_a_membership_of_nobody_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"an organisation of the channel \(alpha, beta, .*got 'omega'"):
        read_membership(genesis_config(), "omega")


def test_ordering_nodes_that_come_and_go_are_told_with_the_policy_of_blocks() -> None:
    alpha = organisations()["alpha"]

    def exchange(config: ChannelConfig) -> Any:
        return change_consenters(config, [alpha.consenter(9, 7999), *config.consenters[1:]])

    assert described(exchange) == (
        "the ordering node 127.0.0.1:7000 leaves",
        "the ordering node 127.0.0.1:7999 joins, of alpha",
        "the value /Channel/Orderer/Orderers changes",
        "the policy /Channel/Orderer/BlockValidation changes",
    )


def test_other_certificates_of_an_ordering_node_are_told() -> None:
    alpha = organisations()["alpha"]
    said = described(lambda config: change_consenters(config, [alpha.consenter(1, 7000), *config.consenters[1:]]))
    assert said[0] == "the ordering node 127.0.0.1:7000 gets other certificates or another number"


def test_batches_and_addresses_are_told() -> None:
    said = described(lambda config: change_batch(config, BATCH))
    assert f"becomes {BATCH}" in said[0]
    assert set(said[1:]) == {f"the value /Channel/Orderer/Batch{what} changes" for what in ("Size", "Timeout")}
    addresses = organisations()["alpha"].spec(orderer=7998).orderer_endpoints
    assert described(lambda config: change_orderer_endpoints(config, "alpha", addresses)) == (
        "the value /Channel/Orderer/alpha/Endpoints changes",
    )


def test_other_authorities_of_an_organisation_are_told_with_their_fingerprints() -> None:
    config, delta = genesis_config(), make_organisation("delta")
    wanted = configtx_pb2.Config()
    wanted.CopyFrom(config.config)
    value = wanted.channel_group.groups["Application"].groups["delta"].values["MSP"]
    value.value = delta.msp_config().SerializeToString()
    assert describe_difference(config, replace(config, config=wanted)) == (
        f"delta changes its membership: authority {fingerprint(delta.signing)}, of TLS {fingerprint(delta.tls)}",
    )


def joined(change: Callable[[Any], None]) -> tuple[str, ...]:
    """What is told of a newcomer whose group was changed, but for the newcomer itself."""
    config = genesis_config()
    wanted = add_organisation(config, make_organisation("epsilon").spec(anchor=7999))
    change(wanted.channel_group.groups["Application"].groups["epsilon"])
    first, *others = describe_difference(config, replace(config, config=wanted))
    assert first.startswith("the organisation epsilon joins (peers): authority ")
    return tuple(others)


def test_a_newcomer_whose_policies_are_another_organisations_is_told() -> None:
    config = genesis_config()
    others = config.config.channel_group.groups["Application"].groups["delta"].policies["Admins"]
    assert joined(lambda group: group.policies["Admins"].CopyFrom(others)) == (
        "the policy /Channel/Application/epsilon/Admins is not as usual",
    )


@pytest.mark.parametrize("name", ["Admins", "Endorsement", "Readers", "Writers"])
def test_a_newcomer_without_one_of_its_policies_is_told(name: str) -> None:
    assert joined(lambda group: group.policies.pop(name)) == (
        f"the policy /Channel/Application/epsilon/{name} is missing",
    )


def test_what_newcomers_do_not_have_is_told() -> None:
    policy = configtx_pb2.ConfigPolicy(mod_policy="Admins")
    value = configtx_pb2.ConfigValue(mod_policy="Admins", value=b"7")
    place = "/Channel/Application/epsilon/New"
    assert joined(lambda group: group.policies["New"].CopyFrom(policy)) == (f"the policy {place} is not as usual",)
    assert joined(lambda group: group.values["New"].CopyFrom(value)) == (f"the value {place} is not as usual",)
    assert joined(lambda group: group.groups["New"].SetInParent()) == (f"the group {place} is not as usual",)


def test_a_newcomer_that_others_may_change_is_told() -> None:
    def group_of_others(group: Any) -> None:
        group.mod_policy = "/Channel/Application/Writers"

    def values_of_others(group: Any) -> None:
        for value in group.values.values():
            value.mod_policy = "Writers"

    place = "/Channel/Application/epsilon"
    assert joined(group_of_others) == (
        f"who may change the group {place} is not as usual: '/Channel/Application/Writers'",
    )
    assert joined(values_of_others) == tuple(
        f"who may change the value {place}/{name} is not as usual: 'Writers'" for name in ("AnchorPeers", "MSP")
    )


def test_a_newcomer_under_another_name_than_its_memberships_is_told() -> None:
    config = genesis_config()
    wanted = add_organisation(config, replace(make_organisation("epsilon").spec(anchor=7999), name="bank"))
    (said,) = describe_difference(config, replace(config, config=wanted))
    assert said.startswith("the organisation bank joins (peers), with the MSP id epsilon: authority ")


# -- nothing goes unsaid


def elements(group: Any, path: str = "/Channel") -> Iterator[tuple[str, Any]]:
    """Every element of a configuration by its path."""
    yield path, group
    for kind in (group.values, group.policies):
        for name in sorted(kind):
            yield f"{path}/{name}", kind[name]
    for name in sorted(group.groups):
        yield from elements(group.groups[name], f"{path}/{name}")


def count_elements() -> int:
    return len(list(elements(genesis_config().config.channel_group)))


def changed_at(number: int) -> Iterator[tuple[str, ChannelConfig]]:
    """Configurations that differ from the first one at one element only, each way in which it can."""
    config = genesis_config()
    for edit in ("mod_policy", "content", "remove"):
        wanted = configtx_pb2.Config()
        wanted.CopyFrom(config.config)
        path, element = list(elements(wanted.channel_group))[number]
        if edit == "mod_policy":
            element.mod_policy = "Writers"
        elif edit == "remove":
            parent = dict(elements(wanted.channel_group)).get(path.rpartition("/")[0])
            if parent is None:
                continue
            for members in (parent.values, parent.policies, parent.groups):
                if path.rpartition("/")[2] in members:
                    del members[path.rpartition("/")[2]]
        elif isinstance(element, configtx_pb2.ConfigValue):
            if path.endswith("/MSP"):
                element.value = make_organisation("other").msp_config().SerializeToString()
            else:
                element.value += b"\x00"
        elif isinstance(element, configtx_pb2.ConfigPolicy):
            element.policy.CopyFrom(policies_pb2.Policy(type=1, value=b""))
        else:
            element.policies["New"].CopyFrom(configtx_pb2.ConfigPolicy(mod_policy="Admins"))
        yield path, replace(config, config=wanted)


@pytest.mark.parametrize("number", range(count_elements()))
def test_an_element_that_is_written_again_as_it_is_is_told_with_its_place(number: int) -> None:
    config = genesis_config()
    wanted = configtx_pb2.Config()
    wanted.CopyFrom(config.config)
    path, element = list(elements(wanted.channel_group))[number]
    element.version += 1
    (said,) = describe_difference(config, replace(config, config=wanted))
    assert said.endswith(f" {path} is written again as it is")


@pytest.mark.parametrize("number", range(count_elements()))
def test_whatever_differs_is_told_with_its_place(number: int) -> None:
    for path, changed in changed_at(number):
        said = describe_difference(genesis_config(), changed)
        assert said, path
        *_, owner, name = ("", *path.split("/"))
        assert any(path in line or (name == "MSP" and line.startswith(owner)) or f" {name} " in line for line in said)


def test_a_preview_needs_no_signatures_and_an_outdated_one_is_refused() -> None:
    config = genesis_config()
    update = compute_update(config.config, change_batch(config, BATCH), config.channel_id)
    assert preview_update(config, update).batch == BATCH
    newer = preview_update(config, update)
    with pytest.raises(ConfigError, match="gives the value /Channel/Orderer/BatchSize version 1"):
        preview_update(newer, update)
    elsewhere = compute_update(config.config, change_batch(config, BATCH), "elsewhere")
    with pytest.raises(ConfigError, match="of channel 'scratch', got 'elsewhere'"):
        preview_update(config, elsewhere)
    assert sign_update(update, admin("alpha"))
