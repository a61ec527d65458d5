"""Policies: whose signatures it takes.

Owns signature policies ("two of these principals") and implicit meta policies ("a majority of the organisations'
Endorsement policies"), evaluated exactly as peers do it, which is greedily: a rule takes the first identity left that
satisfies it, and gives none back for a later rule's sake. Refuses malformed policies when they are read.

    policies = PolicyManager(config.channel_group, msps)
    policies.evaluate("/Channel/Application/Endorsement", [SignedData(...), ...])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any, Final, Literal, Protocol

from fabric_protos.common import policies_pb2
from fabric_protos.msp import msp_principal_pb2
from fabric_protos.peer import policy_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.protobuf import parse, rule_of
from blockfl.fabric.errors import IdentityError, PolicyError
from blockfl.fabric.identity.msp_manager import MspManager
from blockfl.fabric.identity.rule import compile_rule, is_satisfied
from blockfl.fabric.identity.signing import Identity

Role = Literal["member", "admin", "client", "peer", "orderer"]
MetaRule = Literal["ANY", "ALL", "MAJORITY"]

VerifySignature = Callable[[Identity, bytes, bytes], None]
"""Raises `IdentityError` when a signature is not this identity's over a message; `Identity.verify` is one."""

ROOT: Final = "Channel"
_PREFIX: Final = f"/{ROOT}"
_REMEMBERED: Final = 64
_REMEMBERED_OUTCOMES: Final = 1024


@dataclass(frozen=True)
class SignedData:
    """A signature, the bytes it is over, and the serialised identity that is said to have made it."""

    identity: bytes
    signature: bytes
    data: bytes


class Policy(Protocol):
    """Something that a set of identities satisfies or not."""

    def satisfied_by(self, identities: Sequence[Identity], msps: MspManager) -> bool:
        """Whether these distinct identities, which have all signed, are enough."""


def role_principal(msp_id: str, role: Role) -> Any:
    """The principal "anybody of this organisation with this role" (msp.MSPPrincipal)."""
    value = msp_principal_pb2.MSPRole.MSPRoleType.Value(role.upper())
    wanted = msp_principal_pb2.MSPRole(msp_identifier=msp_id, role=value)
    return msp_principal_pb2.MSPPrincipal(
        principal_classification=msp_principal_pb2.MSPPrincipal.ROLE, principal=wanted.SerializeToString()
    )


def identity_principal(identity: Identity) -> Any:
    """The principal "exactly this certificate" (msp.MSPPrincipal)."""
    return msp_principal_pb2.MSPPrincipal(
        principal_classification=msp_principal_pb2.MSPPrincipal.IDENTITY, principal=identity.serialized
    )


def n_of_principals(n: int, principals: Sequence[Any]) -> Any:
    """A policy that n of these principals must sign (common.SignaturePolicyEnvelope).

    Raises:
        PolicyError: n is not between 1 and the number of principals, so that everybody or nobody would satisfy it.
    """
    if not 1 <= n <= len(principals):
        raise PolicyError(f"expected a threshold from 1 to {len(principals)}, got {n}")
    rules = [policies_pb2.SignaturePolicy(signed_by=index) for index in range(len(principals))]
    return policies_pb2.SignaturePolicyEnvelope(
        version=0,
        rule=policies_pb2.SignaturePolicy(n_out_of=policies_pb2.SignaturePolicy.NOutOf(n=n, rules=rules)),
        identities=principals,
    )


def signature_policy(n: int, msp_ids: Sequence[str], role: Role = "peer") -> Any:
    """A policy that somebody with this role of n of these organisations must sign.

    Args:
        n: how many organisations.
        msp_ids: of which; each counts once.
        role: what the one who signs must be.

    Returns:
        A common.SignaturePolicyEnvelope.

    Raises:
        PolicyError: an organisation is named twice, or n is not between 1 and their number.
    """
    if len(set(msp_ids)) != len(msp_ids):
        raise PolicyError(f"expected each organisation once, got {', '.join(msp_ids)}")
    return n_of_principals(n, [role_principal(msp_id, role) for msp_id in msp_ids])


def majority_policy(msp_ids: Sequence[str]) -> Any:
    """More than half of some organisations, by their peers.

    Returns:
        A common.SignaturePolicyEnvelope.
    """
    return signature_policy(len(msp_ids) // 2 + 1, sorted(msp_ids))


def implicit_meta_policy(rule: MetaRule, sub_policy: str) -> Any:
    """A policy that any, all or a majority of the sub-groups' policies of that name must be satisfied.

    Returns:
        A common.ImplicitMetaPolicy.
    """
    value = policies_pb2.ImplicitMetaPolicy.Rule.Value(rule)
    return policies_pb2.ImplicitMetaPolicy(sub_policy=sub_policy, rule=value)


class SignaturePolicy:
    """A compiled signature policy, however deep its rules nest."""

    def __init__(self, envelope: Any) -> None:
        """Check and compile a common.SignaturePolicyEnvelope.

        Raises:
            PolicyError: it is malformed.
        """
        self._principals = tuple(envelope.identities)
        self._rule = compile_rule(rule_of(envelope), len(self._principals))

    @classmethod
    def parse(cls, encoded: bytes) -> SignaturePolicy:
        """Read a serialised envelope.

        Raises:
            PolicyError: it is malformed.
        """
        return cls(_decode(policies_pb2.SignaturePolicyEnvelope, encoded, "a signature policy"))

    def satisfied_by(self, identities: Sequence[Identity], msps: MspManager) -> bool:
        """Whether these distinct identities, which have all signed, are enough; each counts for one principal."""
        return is_satisfied(
            self._rule, len(identities), lambda index, one: msps.satisfies(identities[index], self._principals[one])
        )


@dataclass(frozen=True)
class ImplicitMeta:
    """A compiled implicit meta policy: so many of the sub-groups' policies; None is one that does not exist."""

    threshold: int
    parts: tuple[Policy | None, ...]

    def satisfied_by(self, identities: Sequence[Identity], msps: MspManager) -> bool:
        """Whether these distinct identities satisfy enough sub-policies; one may count for several.

        With an unknown rule the threshold is 0, and peers let pass only those who satisfy no sub-policy at all.
        """
        remaining = self.threshold
        for part in self.parts:
            if part is not None and part.satisfied_by(identities, msps):
                remaining -= 1
                if remaining == 0:
                    return True
        return remaining == 0


def evaluate_signature_policy(envelope: Any, identities: Sequence[Identity], msps: MspManager) -> bool:
    """Whether identities satisfy a common.SignaturePolicyEnvelope.

    Args:
        envelope: the policy.
        identities: distinct ones, whose signatures were verified.
        msps: the channel's organisations.

    Raises:
        PolicyError: the policy is malformed.
    """
    return SignaturePolicy(envelope).satisfied_by(identities, msps)


def signing_identities(
    signed: Sequence[SignedData], msps: MspManager, verify: VerifySignature = Identity.verify
) -> list[Identity]:
    """The distinct identities whose signatures verify, in order; the others are left out, as peers do."""
    found: dict[tuple[str, bytes], Identity] = {}
    for item in signed:
        try:
            identity, key = msps.recognise(item.identity)
            if key not in found:
                verify(identity, item.signature, item.data)
                found[key] = identity
        except IdentityError:
            continue
    return list(found.values())


class Unsatisfiable:
    """A policy that cannot be read: nobody satisfies it."""

    def satisfied_by(self, identities: Sequence[Identity], msps: MspManager) -> bool:  # noqa: ARG002
        """Nobody is enough."""
        return False


class PolicyManager:
    """All policies of a channel's configuration, by path: "/Channel/Application/Endorsement".

    Attributes:
        malformed: paths of those that peers refuse, and why; here nobody satisfies them.
    """

    def __init__(self, channel_group: Any, msps: MspManager) -> None:
        """Compile the policies of a common.ConfigGroup."""
        self._msps = msps
        self._policies: dict[str, Policy] = {}
        self._applied = lru_cache(maxsize=_REMEMBERED)(self._read_application_policy)
        self._outcomes = lru_cache(maxsize=_REMEMBERED_OUTCOMES)(self._judge)
        self._outcomes_at = lru_cache(maxsize=_REMEMBERED_OUTCOMES)(self._judge_at)
        self.malformed: dict[str, str] = {}
        self._add(f"/{ROOT}", channel_group)

    def __contains__(self, path: str) -> bool:
        return path in self._policies

    def get(self, path: str) -> Policy:
        """The policy at an absolute path.

        Raises:
            PolicyError: there is none.
        """
        # Peers leave out as many bytes as the root's name and a slash have, and do not look at the slash.
        policy = self._policies.get(f"{_PREFIX}/{path[len(_PREFIX) + 1 :]}") if path.startswith(_PREFIX) else None
        if policy is None:
            raise PolicyError(f"the channel has no policy {path!r}: name one as /{ROOT}/Application/Endorsement")
        return policy

    def application_policy(self, encoded: bytes) -> Policy:
        """The policy that a chaincode or collection names (peer.ApplicationPolicy): one of its own, or a path.

        Raises:
            PolicyError: it is malformed, or the path does not exist.
        """
        return self._applied(encoded)

    def _read_application_policy(self, encoded: bytes) -> Policy:
        message = _decode(policy_pb2.ApplicationPolicy, encoded, "an application policy")
        kind = message.WhichOneof("Type")
        if kind == "signature_policy":
            return SignaturePolicy(message.signature_policy)
        if kind == "channel_config_policy_reference":
            path = message.channel_config_policy_reference
            return self.get(path if path.startswith("/") else f"/{ROOT}/{path}")
        raise PolicyError("expected a signature policy or a path in the application policy, got neither")

    def are_enough(self, policy: bytes, identities: Sequence[Identity], *, of_key: bool) -> bool:
        """Whether these distinct identities, which have all signed, satisfy a policy; outcomes are remembered.

        Args:
            policy: a serialised common.SignaturePolicyEnvelope when `of_key`, else a peer.ApplicationPolicy.
            identities: in the order of their signatures, which can matter: a rule takes the first that fits.
            of_key: whether it is a key's own.

        Raises:
            PolicyError: it is malformed, or the path that it names does not exist.
        """
        return self._outcomes(policy, tuple(identities), of_key)

    def _judge(self, policy: bytes, identities: tuple[Identity, ...], of_key: bool) -> bool:
        read = SignaturePolicy.parse if of_key else self.application_policy
        return read(policy).satisfied_by(identities, self._msps)

    def evaluate(self, path: str, signed: Sequence[SignedData]) -> None:
        """Check that signatures satisfy the policy at a path.

        Raises:
            PolicyError: they do not, or there is no such policy.
        """
        identities = signing_identities(signed, self._msps)
        if not self.get(path).satisfied_by(identities, self._msps):
            raise PolicyError(
                f"the policy {path} is not satisfied by {len(signed)} signature(s), of which "
                f"{len(identities)} verify ({', '.join(i.msp_id for i in identities) or 'none'})"
            )

    def satisfied_by(self, path: str, identities: Sequence[Identity]) -> bool:
        """Whether these distinct identities, which have all signed, satisfy the policy at a path; see `are_enough`.

        Raises:
            PolicyError: there is no such policy.
        """
        return self._outcomes_at(path, tuple(identities))

    def _judge_at(self, path: str, identities: tuple[Identity, ...]) -> bool:
        return self.get(path).satisfied_by(identities, self._msps)

    def _add(self, path: str, group: Any) -> None:
        for name, child in group.groups.items():
            self._add(f"{path}/{name}", child)
        compiled = {name: self._compiled(path, name, group) for name in group.policies}
        self._policies.update({f"{path}/{name}": policy for name, policy in compiled.items()})

    def _compiled(self, path: str, name: str, group: Any) -> Policy:
        policy = group.policies[name].policy
        try:
            if policy.type == policies_pb2.Policy.SIGNATURE:
                return SignaturePolicy(_versioned(policy.value))
            if policy.type == policies_pb2.Policy.IMPLICIT_META:
                meta = _decode(policies_pb2.ImplicitMetaPolicy, policy.value, "an implicit meta policy")
                parts = [self._below(f"{path}/{child}", meta.sub_policy) for child in sorted(group.groups)]
                return ImplicitMeta(_threshold(meta.rule, len(parts)), tuple(parts))
            raise PolicyError(f"expected a signature or implicit meta policy, got type {policy.type}")
        except PolicyError as error:
            self.malformed[f"{path}/{name}"] = str(error)
            return Unsatisfiable()

    def _below(self, group: str, name: str) -> Policy | None:
        """A group's policy by its name, which peers also take with the group's whole path in front."""
        if name.startswith("/"):
            name = name[len(group) + 1 :] if name.startswith(group) else ""
        return self._policies.get(f"{group}/{name}")


def endorsing_sets(policy: Policy, candidates: Mapping[str, Identity], msps: MspManager) -> list[tuple[str, ...]]:
    """The smallest sets of organisations whose endorsers satisfy a policy together.

    Args:
        policy: what must be satisfied.
        candidates: an endorser's identity for each organisation that can be reached, in order of preference.
        msps: the channel's organisations.

    Returns:
        Sets of MSP ids that hold no smaller satisfying set, the smallest first, each in the order of `candidates`.
    """
    found: list[tuple[str, ...]] = []
    for size in range(len(candidates) + 1):
        for names in combinations(candidates, size):
            if not any(set(smaller) <= set(names) for smaller in found) and policy.satisfied_by(
                [candidates[name] for name in names], msps
            ):
                found.append(names)
    return found


def _threshold(rule: int, parts: int) -> int:
    if parts == 0:
        return 0
    rules = policies_pb2.ImplicitMetaPolicy
    if rule == rules.ANY:
        return 1
    if rule == rules.ALL:
        return parts
    if rule == rules.MAJORITY:
        return parts // 2 + 1
    return 0  # peers take a rule that they do not know: see `ImplicitMeta`


def _versioned(encoded: bytes) -> Any:
    """Peers check the version in the channel's configuration only, not in the policies of contracts and keys."""
    envelope = _decode(policies_pb2.SignaturePolicyEnvelope, encoded, "a signature policy")
    if envelope.version != 0:
        raise PolicyError(f"expected a signature policy of version 0, got version {envelope.version}")
    return envelope


def _decode(kind: Any, encoded: bytes, what: str) -> Any:
    try:
        return parse(kind, encoded)
    except DecodeError as error:
        raise PolicyError(f"expected {what}, got {len(encoded)} bytes that are none") from error
