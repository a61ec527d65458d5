"""What the members of a channel approve about the contract: a function of the consortium, so that all approve the same.

Policies, from the widest to the narrowest: the contract's own is a majority of the organisations that run a peer;
``models`` is endorsed by such a majority and read by all; ``sealed`` is held by the committee and endorsed by its
threshold. What the committee alone must decide has key-level policies, which the contract itself sets.

    definition = contract_definition(consortium)
"""

from typing import Final

from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.transaction.chaincode_definition import ChaincodeDefinition, CollectionSpec
from blockfl.protocol.catalogue import MODEL_COLLECTION, SEALED_COLLECTION
from blockfl.protocol.records import Consortium

VERSION: Final = "1"
"""Of the contract's behaviour; raised with every change to it."""
ENDORSEMENT_POLICY: Final = "/Channel/Application/Endorsement"
"""The channel's own: a majority of the organisations that run a peer."""
SEALED_BLOCK_TO_LIVE: Final = 100_000
"""Sealed updates are purged after so many blocks: far more than a round has, also if somebody floods the channel."""


def contract_definition(consortium: Consortium, *, version: str = VERSION, sequence: int = 1) -> ChaincodeDefinition:
    """Return the definition that every organisation approves.

    Args:
        consortium: Names the contract, its committee and members.
        version: What code runs: the contract's version, perhaps with a digest of its source.
        sequence: Of the definition: one more than the committed one when anything changes.
    """
    members = tuple(member.organisation for member in consortium.members)
    return ChaincodeDefinition(
        name=consortium.contract,
        version=version,
        sequence=sequence,
        endorsement_policy=ENDORSEMENT_POLICY,
        collections=(
            CollectionSpec(
                name=SEALED_COLLECTION,
                members=consortium.committee,
                block_to_live=SEALED_BLOCK_TO_LIVE,
                member_only_read=True,
                member_only_write=False,
                endorsement_policy=signature_policy(consortium.threshold, consortium.committee),
            ),
            CollectionSpec(
                name=MODEL_COLLECTION,
                members=members,
                block_to_live=0,
                member_only_read=True,
                member_only_write=False,
                endorsement_policy=signature_policy(consortium.majority, consortium.endorsing),
            ),
        ),
    )
