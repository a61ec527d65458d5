from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
from fabric_protos.common import common_pb2, configtx_pb2, policies_pb2
from fabric_protos.peer import policy_pb2, proposal_response_pb2, transaction_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.channel.config import ENDORSEMENT, ChannelConfig
from blockfl.fabric.errors import PolicyError
from blockfl.fabric.identity.msp_manager import MspManager
from blockfl.fabric.identity.policy import (
    MetaRule,
    PolicyManager,
    SignaturePolicy,
    SignedData,
    endorsing_sets,
    evaluate_signature_policy,
    identity_principal,
    implicit_meta_policy,
    n_of_principals,
    role_principal,
    signature_policy,
    signing_identities,
)
from blockfl.fabric.identity.signing import Identity, Signer
from reference.policy import NOutOf, Rule, assignments, evaluate_greedily
from support.organisation import make_organisation
from support.recording import recorded_blocks

NAMES = ("alpha", "beta", "gamma", "delta")
ORGANISATIONS = {name: make_organisation(name) for name in NAMES}
MSPS = MspManager({name: organisation.msp() for name, organisation in ORGANISATIONS.items()})
PEERS = {name: organisation.signer("peer0", "peer") for name, organisation in ORGANISATIONS.items()}
CLIENTS = {name: organisation.signer("anna", "client") for name, organisation in ORGANISATIONS.items()}
# Everybody who may sign in the property tests, and every principal that may be asked for.
PEOPLE = [*(PEERS[name].identity for name in NAMES[:3]), *(CLIENTS[name].identity for name in NAMES[:2])]
PRINCIPALS = [
    role_principal("alpha", "member"),
    role_principal("alpha", "peer"),
    role_principal("beta", "member"),
    role_principal("beta", "client"),
    role_principal("gamma", "peer"),
    identity_principal(PEERS["alpha"].identity),
]
RULES: st.SearchStrategy[Rule] = st.recursive(
    st.integers(0, len(PRINCIPALS) - 1),
    lambda inner: st.builds(NOutOf, st.integers(0, 3), st.lists(inner, max_size=3).map(tuple)),
    max_leaves=6,
)


def _identities(*names: str) -> list[Identity]:
    return [PEERS[name].identity for name in names]


def _encode_rule(rule: Rule) -> Any:
    if isinstance(rule, int):
        return policies_pb2.SignaturePolicy(signed_by=rule)
    inner = policies_pb2.SignaturePolicy.NOutOf(n=rule.n, rules=[_encode_rule(part) for part in rule.rules])
    return policies_pb2.SignaturePolicy(n_out_of=inner)


def _envelope(rule: Rule) -> Any:
    return policies_pb2.SignaturePolicyEnvelope(rule=_encode_rule(rule), identities=PRINCIPALS)


def _satisfies(people: list[int], identity: int, principal: int) -> bool:
    return MSPS.satisfies(PEOPLE[people[identity]], PRINCIPALS[principal])


@given(RULES, st.permutations(range(len(PEOPLE))), st.integers(0, len(PEOPLE)))
def test_a_policy_is_evaluated_greedily_as_peers_do(rule: Rule, order: list[int], count: int) -> None:
    people = order[:count]
    got = evaluate_signature_policy(_envelope(rule), [PEOPLE[one] for one in people], MSPS)
    wanted, _ = evaluate_greedily(rule, tuple(range(count)), lambda i, p: _satisfies(people, i, p))
    assert got == wanted


@given(RULES, st.permutations(range(len(PEOPLE))), st.integers(0, len(PEOPLE)))
def test_a_satisfied_policy_has_a_signer_of_its_own_for_each_principal(
    rule: Rule, order: list[int], count: int
) -> None:
    people = order[:count]
    if evaluate_signature_policy(_envelope(rule), [PEOPLE[one] for one in people], MSPS):
        assert assignments(rule, tuple(range(count)), lambda i, p: _satisfies(people, i, p))


def test_greedy_evaluation_depends_on_the_order_of_principals() -> None:
    peer = PEERS["alpha"].identity
    member_first = n_of_principals(2, [role_principal("alpha", "member"), identity_principal(peer)])
    peer_first = n_of_principals(2, [identity_principal(peer), role_principal("alpha", "member")])
    identities = [peer, CLIENTS["alpha"].identity]
    assert not evaluate_signature_policy(member_first, identities, MSPS)
    assert evaluate_signature_policy(peer_first, identities, MSPS)


def test_a_rule_that_fails_gives_its_identities_back() -> None:
    alpha, gamma = (role_principal(name, "peer") for name in ("alpha", "gamma"))
    rule = _encode_rule(NOutOf(1, (NOutOf(2, (0, 1)), 0)))
    policy = policies_pb2.SignaturePolicyEnvelope(rule=rule, identities=[alpha, gamma])
    assert evaluate_signature_policy(policy, _identities("alpha"), MSPS)
    assert not evaluate_signature_policy(policy, _identities("gamma"), MSPS)


@given(st.integers(1, 4), st.sets(st.sampled_from(NAMES)))
def test_n_organisations_must_sign(n: int, names: set[str]) -> None:
    policy = signature_policy(n, NAMES)
    assert evaluate_signature_policy(policy, _identities(*sorted(names)), MSPS) == (len(names) >= n)


def test_one_organisation_does_not_count_twice() -> None:
    second = ORGANISATIONS["alpha"].signer("peer1", "peer").identity
    policy = signature_policy(2, NAMES)
    assert not evaluate_signature_policy(policy, [*_identities("alpha"), second], MSPS)


def test_the_role_counts() -> None:
    clients = [CLIENTS[name].identity for name in NAMES]
    assert not evaluate_signature_policy(signature_policy(1, NAMES, "peer"), clients, MSPS)
    assert evaluate_signature_policy(signature_policy(4, NAMES, "client"), clients, MSPS)


@pytest.mark.parametrize(("n", "names"), [(0, NAMES), (5, NAMES), (1, ()), (1, ("alpha", "alpha"))])
def test_a_policy_that_makes_no_sense_is_not_made(n: int, names: tuple[str, ...]) -> None:
    with pytest.raises(PolicyError, match="expected"):
        signature_policy(n, names)


@pytest.mark.parametrize(
    "rule",
    [
        policies_pb2.SignaturePolicy(),
        policies_pb2.SignaturePolicy(signed_by=6),
        policies_pb2.SignaturePolicy(signed_by=-1),
        _encode_rule(NOutOf(1, (0, 7))),
    ],
)
def test_a_malformed_policy_is_refused(rule: Any) -> None:
    envelope = policies_pb2.SignaturePolicyEnvelope(rule=rule, identities=PRINCIPALS)
    with pytest.raises(PolicyError, match="expected"):
        SignaturePolicy(envelope)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_policy_or_a_clear_error(encoded: bytes) -> None:
    try:
        policy = SignaturePolicy.parse(encoded)
    except PolicyError:
        return
    assert policy.satisfied_by([], MSPS) in (True, False)


def _signed(signer: Signer, data: bytes = b"data") -> SignedData:
    return SignedData(signer.identity.serialized, signer.sign(data), data)


def test_only_verified_signatures_of_known_members_count_and_once() -> None:
    stranger = make_organisation("stranger").signer("peer0", "peer")
    forged = SignedData(PEERS["beta"].identity.serialized, PEERS["alpha"].sign(b"data"), b"data")
    signed = [
        _signed(PEERS["alpha"]),
        forged,
        _signed(stranger),
        SignedData(b"garbage", b"", b""),
        _signed(PEERS["alpha"]),
        _signed(PEERS["gamma"]),
    ]
    assert signing_identities(signed, MSPS) == _identities("alpha", "gamma")


def test_a_bad_signature_does_not_hide_a_good_one_of_the_same_member() -> None:
    bad = SignedData(PEERS["alpha"].identity.serialized, b"", b"data")
    assert signing_identities([bad, _signed(PEERS["alpha"])], MSPS) == _identities("alpha")


def _channel(rule: MetaRule, *, without: str | None = None) -> PolicyManager:
    group = configtx_pb2.ConfigGroup()
    application = group.groups["Application"]
    for name in NAMES:
        child = application.groups[name]
        if name != without:
            own = child.policies["Endorsement"].policy
            own.type = policies_pb2.Policy.SIGNATURE
            own.value = signature_policy(1, [name]).SerializeToString()
    meta = application.policies["Endorsement"].policy
    meta.type = policies_pb2.Policy.IMPLICIT_META
    meta.value = implicit_meta_policy(rule, "Endorsement").SerializeToString()
    return PolicyManager(group, MSPS)


@pytest.mark.parametrize(("rule", "needed"), [("ANY", 1), ("MAJORITY", 3), ("ALL", 4)])
def test_an_implicit_meta_policy_counts_organisations(rule: MetaRule, needed: int) -> None:
    policies = _channel(rule)
    for count in range(5):
        for names in permutations(NAMES, count):
            assert policies.satisfied_by(ENDORSEMENT, _identities(*names)) == (count >= needed)


def test_an_organisation_without_the_policy_still_counts_for_the_majority() -> None:
    policies = _channel("MAJORITY", without="delta")
    assert policies.satisfied_by(ENDORSEMENT, _identities("alpha", "beta", "gamma"))
    assert not policies.satisfied_by(ENDORSEMENT, _identities("alpha", "beta", "delta"))
    assert not _channel("ALL", without="delta").satisfied_by(ENDORSEMENT, _identities(*NAMES))


def test_an_implicit_meta_policy_over_no_groups_is_always_satisfied() -> None:
    group = configtx_pb2.ConfigGroup()
    meta = group.policies["Readers"].policy
    meta.type = policies_pb2.Policy.IMPLICIT_META
    meta.value = implicit_meta_policy("ALL", "Readers").SerializeToString()
    assert PolicyManager(group, MSPS).satisfied_by("/Channel/Readers", [])


def test_evaluation_names_the_policy_and_who_signed() -> None:
    policies = _channel("MAJORITY")
    policies.evaluate(ENDORSEMENT, [_signed(PEERS[name]) for name in NAMES[:3]])
    with pytest.raises(PolicyError, match=r"Endorsement is not satisfied by 2 signature.*alpha, beta"):
        policies.evaluate(ENDORSEMENT, [_signed(PEERS[name]) for name in NAMES[:2]])


def test_a_missing_policy_is_an_error_not_a_permission() -> None:
    policies = _channel("ANY")
    assert ENDORSEMENT in policies
    assert "/Channel/Application/Admins" not in policies
    with pytest.raises(PolicyError, match="no policy"):
        policies.evaluate("/Channel/Application/Admins", [_signed(PEERS[name]) for name in NAMES])


def test_a_malformed_policy_in_a_channel_is_named() -> None:
    group = configtx_pb2.ConfigGroup()
    group.groups["Orderer"].policies["Admins"].policy.type = policies_pb2.Policy.MSP
    policies = PolicyManager(group, MSPS)
    assert set(policies.malformed) == {"/Channel/Orderer/Admins"}
    assert not policies.satisfied_by("/Channel/Orderer/Admins", _identities(*NAMES))


def test_a_policy_of_another_version_is_refused_in_a_channel_only() -> None:
    envelope = signature_policy(1, NAMES)
    envelope.version = 1
    group = configtx_pb2.ConfigGroup()
    policy = group.policies["Admins"].policy
    policy.type, policy.value = policies_pb2.Policy.SIGNATURE, envelope.SerializeToString()
    assert "version 1" in PolicyManager(group, MSPS).malformed["/Channel/Admins"]
    assert evaluate_signature_policy(envelope, _identities("alpha"), MSPS)


def test_an_application_policy_is_of_its_own_or_a_path() -> None:
    policies = _channel("MAJORITY")
    own = policy_pb2.ApplicationPolicy(signature_policy=signature_policy(1, ["beta"]))
    assert policies.application_policy(own.SerializeToString()).satisfied_by(_identities("beta"), MSPS)
    for path in (ENDORSEMENT, "Application/Endorsement"):
        reference = policy_pb2.ApplicationPolicy(channel_config_policy_reference=path)
        policy = policies.application_policy(reference.SerializeToString())
        assert policy.satisfied_by(_identities("alpha", "beta", "gamma"), MSPS)
        assert not policy.satisfied_by(_identities("alpha", "beta"), MSPS)
    for broken in (
        b"",
        b"\xff",
        policy_pb2.ApplicationPolicy(channel_config_policy_reference="/x").SerializeToString(),
    ):
        with pytest.raises(PolicyError):
            policies.application_policy(broken)


def test_endorsing_sets_are_the_smallest_ones_in_order_of_preference() -> None:
    candidates = {name: PEERS[name].identity for name in ("delta", "alpha", "beta")}
    two = SignaturePolicy(signature_policy(2, NAMES))
    assert endorsing_sets(two, candidates, MSPS) == [("delta", "alpha"), ("delta", "beta"), ("alpha", "beta")]
    alpha_or_two = SignaturePolicy(_named_or_two())
    assert endorsing_sets(alpha_or_two, candidates, MSPS) == [("alpha",), ("delta", "beta")]
    assert endorsing_sets(SignaturePolicy(signature_policy(4, NAMES)), candidates, MSPS) == []


def _named_or_two() -> Any:
    principals = [role_principal(name, "peer") for name in ("alpha", "beta", "delta")]
    rule = _encode_rule(NOutOf(1, (0, NOutOf(2, (1, 2)))))
    return policies_pb2.SignaturePolicyEnvelope(rule=rule, identities=principals)


def _endorsements(number: int, index: int) -> list[SignedData]:
    """The endorsements of a recorded transaction."""
    envelope = common_pb2.Envelope.FromString(recorded_blocks()[number].data.data[index])
    payload = common_pb2.Payload.FromString(envelope.payload)
    transaction = transaction_pb2.Transaction.FromString(payload.data)
    action = transaction_pb2.ChaincodeActionPayload.FromString(transaction.actions[0].payload).action
    assert proposal_response_pb2.ProposalResponsePayload.FromString(action.proposal_response_payload)
    return [
        SignedData(item.endorser, item.signature, action.proposal_response_payload + item.endorser)
        for item in action.endorsements
    ]


def test_recorded_endorsements_satisfy_the_policy_unless_one_was_revoked_before() -> None:
    config = ChannelConfig.from_block(recorded_blocks()[92])
    config.policies.evaluate(ENDORSEMENT, _endorsements(93, 3))
    revoked = _endorsements(93, 2)
    assert len(signing_identities(revoked, config.msps)) == 3
    with pytest.raises(PolicyError, match="3 verify"):
        config.policies.evaluate(ENDORSEMENT, revoked)
    ChannelConfig.from_block(recorded_blocks()[66]).policies.evaluate(ENDORSEMENT, revoked)


def test_recorded_endorsements_of_an_expired_endorser_count() -> None:
    config = ChannelConfig.from_block(recorded_blocks()[66])
    config.policies.evaluate(ENDORSEMENT, _endorsements(70, 0))


def test_one_recorded_endorsement_less_is_not_enough() -> None:
    config = ChannelConfig.from_block(recorded_blocks()[92])
    endorsements = _endorsements(93, 3)
    for left_out in range(3):
        with pytest.raises(PolicyError):
            config.policies.evaluate(ENDORSEMENT, endorsements[:left_out] + endorsements[left_out + 1 :])
