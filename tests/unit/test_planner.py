"""Who endorses when the client names nobody."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.client.lifecycle import ChaincodeDefinition, CollectionSpec
from blockfl.fabric.embedded.endorsing.lifecycle_state import Parameters, encode_data, encode_metadata
from blockfl.fabric.embedded.endorsing.planner import NoPlan, Plan, make_plan
from blockfl.fabric.embedded.endorsing.simulator import Interest
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate import PublicUpdate, StateUpdates
from blockfl.fabric.validate.memory_state import MemoryState
from support.organisation import channel_spec, make_organisation

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")
DEFINITION = ChaincodeDefinition(
    name="app",
    version="1.0",
    collections=(
        CollectionSpec(
            name="pair", members=("alpha", "beta"), endorsement_policy=signature_policy(2, ("alpha", "beta"))
        ),
        CollectionSpec(name="wide", members=("alpha", "beta", "gamma")),
        CollectionSpec(name="narrow", members=("alpha", "beta")),
    ),
)


@cache
def channel() -> tuple[ChannelConfig, dict[str, Identity]]:
    organisations = [make_organisation(name) for name in NAMES]
    config = ChannelConfig.from_block(build_genesis_block(channel_spec(*organisations)))
    return config, {one.name: one.signer(f"peer0.{one.name}", "peer").identity for one in organisations}


@cache
def state() -> MemoryState:
    encoded = DEFINITION.encode()
    parameters = Parameters(
        version=DEFINITION.version,
        endorsement_plugin="escc",
        validation_plugin="vscc",
        policy=encoded["validation_parameter"],
        init_required=False,
        collections=encoded["collections"],
    )
    fields = {"Sequence": encode_data(Int64=1), **parameters.fields()}
    values = {f"namespaces/fields/app/{name}": value for name, value in fields.items()}
    values["namespaces/metadata/app"] = encode_metadata("ChaincodeDefinition", fields)
    memory = MemoryState()
    updates = [
        PublicUpdate(namespace="_lifecycle", key=key, value=value, version=Version(1, 0))
        for key, value in values.items()
    ]
    memory.apply(StateUpdates(number=1, public=tuple(updates)), [])
    return memory


def plan(
    interest: Interest, *, names: Sequence[str] = NAMES, protect: bool = False, chaincode: str = "app", **_: Any
) -> Plan:
    config, identities = channel()
    candidates = {name: identities[name] for name in names}
    return make_plan(chaincode, interest, candidates, config=config, state=state(), protect_transient=protect)


def test_a_public_write_takes_a_majority_that_begins_with_the_preferred() -> None:
    assert plan(Interest(namespaces={"app": True})).choose() == ["alpha", "beta", "gamma"]
    assert plan(Interest(namespaces={"app": True}), names=("delta", "beta", "alpha", "gamma")).choose() == [
        "delta",
        "beta",
        "alpha",
    ]


def test_whoever_failed_is_replaced_while_there_are_others() -> None:
    found = plan(Interest(namespaces={"app": True}))
    assert found.choose({"beta"}) == ["alpha", "gamma", "delta"]
    assert found.choose({"beta", "gamma"}) == ["alpha", "delta", "epsilon"]
    assert found.choose({"beta", "gamma", "delta"}) is None


def test_a_call_that_touched_nothing_takes_the_chaincodes_policy() -> None:
    assert plan(Interest()).choose() == ["alpha", "beta", "gamma"]


def test_a_collections_own_policy_replaces_the_chaincodes() -> None:
    assert plan(Interest(namespaces={"app": False}, collections={("app", "pair"): True})).choose() == ["alpha", "beta"]
    assert plan(Interest(namespaces={"app": False}, collections={("app", "wide"): True})).choose() == [
        "alpha",
        "beta",
        "gamma",
    ]


def test_all_policies_hold_at_once() -> None:
    interest = Interest(
        namespaces={"app": True},
        collections={("app", "pair"): True},
        key_policies={"app": {signature_policy(1, ["epsilon"]).SerializeToString(): None}},
    )
    assert plan(interest, names=("gamma", "delta", "epsilon", "beta", "alpha")).choose() == ["epsilon", "beta", "alpha"]


def test_a_key_level_policy_alone_is_enough() -> None:
    policy = signature_policy(2, ["delta", "epsilon"]).SerializeToString()
    assert plan(Interest(namespaces={"app": False}, key_policies={"app": {policy: None}})).choose() == [
        "delta",
        "epsilon",
    ]


def test_an_implicit_collection_takes_its_owner() -> None:
    interest = Interest(namespaces={"app": False}, collections={("app", "_implicit_org_delta"): True})
    assert plan(interest).choose() == ["delta"]


def test_private_reads_and_protected_transient_data_stay_with_members() -> None:
    interest = Interest(namespaces={"app": False}, collections={("app", "wide"): True})
    assert plan(interest, names=("delta", "epsilon", "gamma", "beta", "alpha")).choose() == [
        "delta",
        "epsilon",
        "gamma",
    ]
    protected = plan(interest, names=("delta", "epsilon", "gamma", "beta", "alpha"), protect=True)
    assert protected.choose() == ["gamma", "beta", "alpha"]
    interest.private_reads.add(("app", "wide"))
    assert plan(interest, names=("delta", "epsilon", "gamma", "beta", "alpha")).choose() == ["gamma", "beta", "alpha"]


def test_members_who_are_too_few_are_said_to_be() -> None:
    interest = Interest(namespaces={"app": False}, collections={("app", "narrow"): True})
    assert plan(interest).choose() == ["alpha", "beta", "gamma"]
    with pytest.raises(NoPlan, match=r"not in the distribution policy of the private data collection\(s\): \[narrow\]"):
        plan(interest, protect=True)


@pytest.mark.parametrize(
    ("interest", "names", "chaincode", "reason"),
    [
        (Interest(namespaces={"app": True}), ("alpha", "beta"), "app", "that can endorse app are alpha, beta"),
        (Interest(namespaces={"app": True}), (), "app", "are none"),
        (Interest(), NAMES, "nothing", "No metadata was found for chaincode nothing in channel testchannel"),
        (Interest(collections={("app", "gone"): True}), NAMES, "app", "no collection 'gone'"),
        (
            Interest(collections={("app", "_implicit_org_stranger"): True}),
            NAMES,
            "app",
            "'stranger' is not on the channel",
        ),
        (Interest(key_policies={"app": {b"\xff": None}}), NAMES, "app", "signature policy"),
    ],
)
def test_what_cannot_be_satisfied_is_refused(
    interest: Interest, names: Sequence[str], chaincode: str, reason: str
) -> None:
    with pytest.raises(NoPlan, match=reason):
        plan(interest, names=names, chaincode=chaincode)
