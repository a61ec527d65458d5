"""What does not fit BlockFL is found in any channel's configuration, and what fits is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fabric_protos.common import configuration_pb2, policies_pb2
from fabric_protos.msp import msp_config_pb2
from fabric_protos.orderer import configuration_pb2 as orderer_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.identity.policy import implicit_meta_policy, n_of_principals, role_principal, signature_policy
from blockfl.network.channel_check import Misfit, check_channel
from support.organisation import channel_spec, make_organisation

MSP_IDS = ("Org1MSP", "Org2MSP", "Org3MSP", "Org4MSP")
ORGANISATIONS = [make_organisation(name) for name in MSP_IDS]
CONFIG = ChannelConfig.from_block(build_genesis_block(channel_spec(*ORGANISATIONS)))
Change = Callable[[Any], None]


def changed(change: Change) -> ChannelConfig:
    config = type(CONFIG.config)()
    config.CopyFrom(CONFIG.config)
    change(config.channel_group)
    return ChannelConfig.from_config(config, CONFIG.channel_id)


def with_policy(name: str, policy: Any, kind: int) -> ChannelConfig:
    def change(group: Any) -> None:
        place = group.groups["Application"].policies[name].policy
        place.type, place.value = kind, policy.SerializeToString()

    return changed(change)


def only(misfits: list[Misfit]) -> Misfit:
    assert len(misfits) == 1, misfits
    return misfits[0]


def test_a_channel_as_blockfl_makes_it_fits() -> None:
    assert check_channel(CONFIG, MSP_IDS) == []


@pytest.mark.parametrize("name", ["Endorsement", "LifecycleEndorsement"])
@pytest.mark.parametrize(
    ("policy", "found"),
    [
        (implicit_meta_policy("ANY", "Endorsement"), "Org1MSP, Org2MSP are enough"),
        (implicit_meta_policy("ALL", "Endorsement"), "Org1MSP, Org2MSP, Org3MSP are not enough"),
        (implicit_meta_policy("MAJORITY", "Nothing"), "Org1MSP, Org2MSP, Org3MSP are not enough"),
    ],
)
def test_every_other_rule_than_the_majority_is_named(name: str, policy: Any, found: str) -> None:
    misfit = only(check_channel(with_policy(name, policy, policies_pb2.Policy.IMPLICIT_META), MSP_IDS))
    assert misfit.is_fatal
    assert (misfit.what, misfit.found) == (f"policy /Channel/Application/{name}", found)


@pytest.mark.parametrize(
    ("policy", "fits"),
    [
        (signature_policy(3, MSP_IDS, "peer"), True),
        (signature_policy(3, MSP_IDS, "member"), True),
        (signature_policy(2, MSP_IDS, "peer"), False),
        (signature_policy(3, MSP_IDS, "admin"), False),
        (signature_policy(2, MSP_IDS[:3], "peer"), False),
        (n_of_principals(3, [role_principal(one, "peer") for one in (*MSP_IDS, *MSP_IDS)]), False),
    ],
    ids=["majority of peers", "of members", "half", "administrators", "of three only", "two peers of one"],
)
def test_a_policy_of_its_own_is_judged_by_whom_it_lets_decide(policy: Any, fits: bool) -> None:
    misfits = check_channel(with_policy("Endorsement", policy, policies_pb2.Policy.SIGNATURE), MSP_IDS)
    assert (misfits == []) == fits


def test_organisations_that_are_not_members_and_members_that_are_not_there_are_named() -> None:
    strangers = check_channel(CONFIG, MSP_IDS[:3])
    assert "Org4MSP as well" in {one.found for one in strangers}
    missing = check_channel(CONFIG, [*MSP_IDS, "Org5MSP"])
    assert "Org5MSP missing" in {one.found for one in missing}


def test_an_institution_without_a_peer_is_a_member_and_does_not_count_for_the_majority() -> None:
    policy = signature_policy(2, MSP_IDS[:3], "peer")
    config = with_policy("Endorsement", policy, policies_pb2.Policy.SIGNATURE)
    named = {one.what for one in check_channel(config, MSP_IDS[:3], MSP_IDS)}
    assert named == {"policy /Channel/Application/LifecycleEndorsement"}


def test_an_organisation_without_node_units_is_named() -> None:
    def change(group: Any) -> None:
        for kind in ("Application", "Orderer"):
            organisations = group.groups[kind].groups
            if "Org1MSP" in organisations:
                value = organisations["Org1MSP"].values["MSP"]
                config = msp_config_pb2.MSPConfig.FromString(value.value)
                fabric = msp_config_pb2.FabricMSPConfig.FromString(config.config)
                fabric.fabric_node_ous.enable = False
                fabric.admins.append(ORGANISATIONS[0].signer("admin", "admin").identity.certificate_pem)
                config.config = fabric.SerializeToString()
                value.value = config.SerializeToString()

    assert only(check_channel(changed(change), MSP_IDS)).what == "node OUs of Org1MSP"


def test_an_organisation_without_an_anchor_peer_is_named() -> None:
    def change(group: Any) -> None:
        del group.groups["Application"].groups["Org2MSP"].values["AnchorPeers"]

    assert only(check_channel(changed(change), MSP_IDS)).what == "anchor peers of Org2MSP"


def test_settings_that_slow_rounds_down_are_told_and_stop_nothing() -> None:
    def change(group: Any) -> None:
        timeout = orderer_pb2.BatchTimeout(timeout="2s")
        group.groups["Orderer"].values["BatchTimeout"].value = timeout.SerializeToString()
        capabilities = configuration_pb2.Capabilities(capabilities={"V2_0": configuration_pb2.Capability()})
        group.groups["Application"].values["Capabilities"].value = capabilities.SerializeToString()

    misfits = check_channel(changed(change), MSP_IDS)
    assert {one.what for one in misfits} == {"BatchTimeout", "application capabilities"}
    assert not any(one.is_fatal for one in misfits)


def test_blocks_that_are_too_small_are_fatal() -> None:
    def change(group: Any) -> None:
        size = orderer_pb2.BatchSize(max_message_count=1, absolute_max_bytes=1000, preferred_max_bytes=1000)
        group.groups["Orderer"].values["BatchSize"].value = size.SerializeToString()

    misfit = only(check_channel(changed(change), MSP_IDS))
    assert misfit.is_fatal
    assert misfit.what == "BatchSize.AbsoluteMaxBytes"
