"""What members approve about the contract follows from the consortium."""

from __future__ import annotations

from blockfl.contract.definition import contract_definition
from support.federation import make_consortium
from support.world import decode_policy

COMMITTEE = ("coordinator", "regulator", "university")
MEMBERS = ("alpha", "beta", "coordinator", "delta", "gamma", "regulator", "university")


def test_sealed_updates_belong_to_the_committee_and_models_to_all() -> None:
    definition = contract_definition(make_consortium())
    sealed, models = definition.collections
    assert (definition.name, definition.sequence) == ("blockfl", 1)
    assert definition.endorsement_policy == "/Channel/Application/Endorsement"
    assert (sealed.name, sealed.members, decode_policy(sealed.endorsement_policy)) == (
        "sealed",
        COMMITTEE,
        (2, COMMITTEE),
    )
    assert (models.name, models.members, decode_policy(models.endorsement_policy)) == ("models", MEMBERS, (4, MEMBERS))


def test_only_members_read_but_institutions_write_to_the_committees_collection() -> None:
    for collection in contract_definition(make_consortium()).collections:
        assert collection.member_only_read
        assert not collection.member_only_write
        assert (collection.required_peer_count, collection.maximum_peer_count) == (0, 0)


def test_sealed_updates_expire_and_models_never_do() -> None:
    sealed, models = contract_definition(make_consortium()).collections
    assert (sealed.block_to_live, models.block_to_live) == (100_000, 0)


def test_everybody_computes_the_same_definition() -> None:
    one, other = contract_definition(make_consortium()), contract_definition(make_consortium())
    assert one.encode() == other.encode()
    assert one.encode() != contract_definition(make_consortium(), sequence=2).encode()
    assert one.encode() != contract_definition(make_consortium(), version="2").encode()
