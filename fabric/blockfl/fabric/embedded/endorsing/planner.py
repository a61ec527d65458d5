"""Chooses which organisations endorse a transaction when its client names none.

Owns the translation of what a first simulation touched into policies, and the choice of a smallest set of
organisations that satisfies them all. Refuses to hand transient data to organisations outside the collections
that the transaction writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.embedded.endorsing.simulator import Interest
from blockfl.fabric.embedded.storage.definition import LIFECYCLE, read_collection
from blockfl.fabric.errors import BlockError, FabricError, PolicyError
from blockfl.fabric.identity.policy import Policy, SignaturePolicy, evaluate_signature_policy
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.transaction.collection import IMPLICIT_PREFIX
from blockfl.fabric.validate import StateView
from blockfl.fabric.validate.definition import find_collection, read_definition


class NoPlan(FabricError):
    """No combination of organisations satisfies the policies; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The policies of one transaction and who may endorse it.

    Attributes:
        policies: All must be satisfied.
        candidates: Endorsers' identities by MSP id, in order of preference.
    """

    policies: Sequence[Policy]
    candidates: Mapping[str, Identity]
    config: ChannelConfig

    def choose(self, without: set[str] | frozenset[str] = frozenset()) -> list[str] | None:
        """Chooses organisations, preferring those named first.

        Args:
            without: Organisations that have failed.

        Returns:
            MSP ids of which none can be left out, or None when the policies cannot be satisfied.
        """
        chosen = [msp_id for msp_id in self.candidates if msp_id not in without]
        if not self._satisfied(chosen):
            return None
        for msp_id in reversed(chosen.copy()):
            fewer = [other for other in chosen if other != msp_id]
            if fewer and self._satisfied(fewer):
                chosen = fewer
        return chosen

    def _satisfied(self, msp_ids: Sequence[str]) -> bool:
        identities = [self.candidates[msp_id] for msp_id in msp_ids]
        return all(policy.satisfied_by(identities, self.config.msps) for policy in self.policies)


def make_plan(
    chaincode: str,
    interest: Interest,
    candidates: Mapping[str, Identity],
    *,
    config: ChannelConfig,
    state: StateView,
    protect_transient: bool,
) -> Plan:
    """Finds the policies that a transaction has to satisfy and who may be asked.

    Args:
        chaincode: The one called: its policy counts when the transaction touched nothing.
        interest: What a first simulation touched.
        candidates: Endorsers' identities by MSP id, in order of preference.
        config: The channel's configuration.
        state: The ledger's state.
        protect_transient: Whether transient data must stay within the members of the collections written.

    Raises:
        NoPlan: The policies cannot be satisfied by the candidates.
    """
    policies = _find_policies(chaincode, interest, config, state)
    closed = set(interest.private_reads) | (set(interest.collections) if protect_transient else set())
    members = {
        msp_id: identity
        for msp_id, identity in candidates.items()
        if all(_is_member(identity, *place, config=config, state=state) for place in closed)
    }
    plan = Plan(policies=policies, candidates=members, config=config)
    if plan.choose() is None:
        if protect_transient and Plan(policies=policies, candidates=candidates, config=config).choose() is not None:
            names = " ".join(sorted({collection for _, collection in interest.collections}))
            raise NoPlan(
                "requires endorsement from organisation(s) that are not in the distribution policy of the private "
                f"data collection(s): [{names}]; retry specifying trusted endorsing organizations to protect "
                "transient data"
            )
        raise NoPlan(
            "no combination of peers can be derived which satisfy the endorsement policy: the organisations that can "
            f"endorse {chaincode} are {', '.join(members) or 'none'}"
        )
    return plan


def _find_policies(chaincode: str, interest: Interest, config: ChannelConfig, state: StateView) -> list[Policy]:
    encoded: dict[bytes, None] = {}
    try:
        for namespace, needs_own in interest.namespaces.items():
            if needs_own:
                encoded[_chaincode_policy(namespace, config, state)] = None
        for namespace, collection in interest.collections:
            encoded[_collection_policy(namespace, collection, config, state)] = None
        of_keys = [SignaturePolicy.parse(p) for found in interest.key_policies.values() for p in found]
        if not encoded and not of_keys:
            encoded[_chaincode_policy(chaincode, config, state)] = None
        return [config.policies.application_policy(policy) for policy in encoded] + of_keys
    except (PolicyError, BlockError) as error:
        raise NoPlan(f"no combination of peers can be derived which satisfy the endorsement policy: {error}") from error


def _chaincode_policy(name: str, config: ChannelConfig, state: StateView) -> bytes:
    definition = read_definition(name, config, state)
    if definition is None:
        raise BlockError(f"No metadata was found for chaincode {name} in channel {config.channel_id}")
    return definition.policy


def _collection_policy(namespace: str, collection: str, config: ChannelConfig, state: StateView) -> bytes:
    definition = read_definition(namespace, config, state)
    if definition is None:
        raise BlockError(f"No metadata was found for chaincode {namespace} in channel {config.channel_id}")
    return find_collection(definition, collection, config).policy or definition.policy


def _is_member(identity: Identity, namespace: str, collection: str, *, config: ChannelConfig, state: StateView) -> bool:
    if collection.startswith(IMPLICIT_PREFIX):
        return namespace == LIFECYCLE or collection == IMPLICIT_PREFIX + identity.msp_id
    found = read_collection(state, namespace, collection, frozenset(config.application_msp_ids))
    return found is not None and evaluate_signature_policy(found.members, [identity], config.msps)
