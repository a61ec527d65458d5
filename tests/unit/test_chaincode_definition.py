"""Definitions of chaincodes and collections: what peers would refuse, and what goes onto the ledger."""

from __future__ import annotations

from typing import Any

import pytest
from fabric_protos.common import policies_pb2
from fabric_protos.peer import policy_pb2

from blockfl.fabric.client.lifecycle import DEFAULT_POLICY, ChaincodeDefinition, CollectionSpec
from blockfl.fabric.errors import ConfigError
from blockfl.fabric.identity.policy import signature_policy

TWO = signature_policy(2, ("alpha", "beta"))


def test_a_collection_is_encoded_with_members_that_any_client_may_be_one_of() -> None:
    static = (
        CollectionSpec(name="sealed", members=("alpha", "beta"), block_to_live=7, endorsement_policy=TWO)
        .encode()
        .static_collection_config
    )
    assert static.member_orgs_policy.signature_policy == signature_policy(1, ("alpha", "beta"), "member")
    assert (static.required_peer_count, static.maximum_peer_count, static.block_to_live) == (0, 0, 7)
    assert (static.member_only_read, static.member_only_write) == (True, False)
    assert static.endorsement_policy.signature_policy == TWO


def test_a_collection_without_a_policy_of_its_own_has_none_on_the_ledger() -> None:
    static = CollectionSpec(name="notes", members=("alpha",)).encode().static_collection_config
    assert not static.HasField("endorsement_policy")


@pytest.mark.parametrize("source", [TWO, TWO.SerializeToString()])
def test_a_signature_policy_may_come_serialised_or_not(source: Any) -> None:
    fields = ChaincodeDefinition(name="app", version="1", endorsement_policy=source).encode()
    assert policy_pb2.ApplicationPolicy.FromString(fields["validation_parameter"]).signature_policy == TWO


def test_the_default_policy_is_the_channels() -> None:
    fields = ChaincodeDefinition(name="app", version="1").encode()
    decoded = policy_pb2.ApplicationPolicy.FromString(fields["validation_parameter"])
    assert decoded.channel_config_policy_reference == DEFAULT_POLICY
    assert (fields["endorsement_plugin"], fields["validation_plugin"]) == ("escc", "vscc")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": ""}, "expected a chaincode name"),
        ({"name": "-app"}, "expected a chaincode name"),
        ({"name": "app/1"}, "expected a chaincode name"),
        ({"version": ""}, "expected a version"),
        ({"version": "1 0"}, "expected a version"),
        ({"sequence": 0}, "expected a sequence from 1 on, got 0"),
        ({"collections": (CollectionSpec(name="a", members=("x",)),) * 2}, "expected each collection once"),
    ],
)
def test_a_definition_that_peers_refuse_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ChaincodeDefinition(**({"name": "app", "version": "1"} | changes))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": "_implicit"}, "expected a collection name"),
        ({"members": ()}, "expected each member once"),
        ({"members": ("alpha", "alpha")}, "expected each member once"),
        ({"required_peer_count": 1}, "required_peer_count <= maximum_peer_count"),
        ({"required_peer_count": -1}, "0 <= required_peer_count"),
    ],
)
def test_a_collection_that_peers_refuse_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        CollectionSpec(**({"name": "sealed", "members": ("alpha",)} | changes))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("Endorsement", "expected the path of a policy"),
        (b"\xff", "expected a serialised signature policy"),
        (policies_pb2.SignaturePolicyEnvelope(), "names somebody"),
    ],
)
def test_a_policy_that_says_nothing_is_refused(source: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        ChaincodeDefinition(name="app", version="1", endorsement_policy=source).encode()
