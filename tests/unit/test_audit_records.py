"""What the auditor finds in the records of a task: every fixture breaks one thing, as colluding organisations could."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from blockfl.audit.chain import ChainProof, Write
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.audit.records import TaskProof, verify_task
from blockfl.fabric.rwset import Version, hash_key, hash_value
from blockfl.fabric.validate import HashedUpdate, StateUpdates
from blockfl.protocol import place
from blockfl.protocol.limits import RoundNorms
from blockfl.protocol.records import Aggregate, Equivocation, Model, Round, SignedHeader, Task, Update, Vote, Withdrawal
from blockfl.protocol.submission import sign_header
from blockfl.protocol.terms import freeze_norms
from support.federation import INSTITUTIONS
from support.scenario import TASK, Scenario
from support.strict_task import StrictTask, make_strict_spec
from support.world import World

CONTRACT = "blockfl"
Records = dict[str, bytes]


@pytest.fixture
async def told() -> tuple[Records, dict[tuple[str, str], bytes]]:
    """The public records, and the hashes of private values, after two published rounds."""
    world = World()
    signers = {name: world.signers[name] for name in world.signers}
    scenario = Scenario(world, world.consortium, signers, world.opening_keys)
    await scenario.prepare()
    model = scenario.initial_model
    for number in (1, 2):
        await scenario.open(number)
        await scenario.contribute(*INSTITUTIONS, number=number)
        await scenario.close(number)
        await scenario.attest(number)
        model = await scenario.publish(number, model)
    cells = world.snapshot()
    public = {key: cell.value for (collection, key), cell in cells.items() if not collection}
    private = {at: cell.value for at, cell in cells.items() if at[0]}
    return public, private


def make_history(
    public: Records,
    private: dict[tuple[str, str], bytes],
    *,
    first: Sequence[Write] = (),
    last: Sequence[Write] = (),
) -> History:
    chain = ChainProof(genesis_hash=b"", namespace=CONTRACT)
    writes = [Write(block_number=1, key=key, value=value) for key, value in sorted(public.items())]
    chain.writes = [*first, *writes, *last]
    hashed = tuple(
        HashedUpdate(
            namespace=CONTRACT,
            collection=collection,
            key_hash=hash_key(key),
            value_hash=value,
            version=Version(1, 0),
        )
        for (collection, key), value in private.items()
    )
    chain.state.apply(StateUpdates(number=1, hashed=hashed), [])
    return History(chain)


def verify(public: Records, private: dict[tuple[str, str], bytes]) -> TaskProof:
    history = make_history(public, private)
    return verify_task(history, history.get(Task, place.task_key(TASK)))


def test_two_honest_rounds_verify(told: tuple[Records, dict[tuple[str, str], bytes]]) -> None:
    proof = verify(*told)
    assert (proof.rounds, proof.updates, proof.accepted, proof.versions) == (2, 8, 8, 3)


async def test_rounds_with_every_kind_of_outcome_verify() -> None:
    """An equivocator, somebody absent, an update that nobody judged, a round that failed, one that is open."""
    world = World()
    scenario = Scenario(world, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open(1)
    await scenario.contribute(number=1)
    second, _ = await scenario.seal("gamma", 1, salt=1)
    await world.submit("gamma", "SubmitUpdate", scenario.sign(second).encode())
    await scenario.close(1)
    await scenario.attest(1)
    await scenario.publish(1, scenario.initial_model)
    await scenario.open(2)
    await scenario.contribute("alpha", number=2)
    await scenario.submit("beta", 2)
    world.now_ms = (await scenario.round(2)).judge_deadline_ms
    await scenario.close(2)
    await scenario.open(3)
    await scenario.submit("delta", 3)
    cells = world.snapshot()
    public = {key: cell.value for (collection, key), cell in cells.items() if not collection}
    rounds = [Round.decode(public[place.round_key(TASK, number)]) for number in (1, 2, 3)]
    assert [(one.rejected, one.unjudged, one.absent) for one in rounds[:2]] == [
        (("gamma",), (), ()),
        ((), ("beta",), ("delta", "gamma")),
    ]
    proof = verify(public, {at: cell.value for at, cell in cells.items() if at[0]})
    assert (proof.rounds, proof.updates, proof.accepted, proof.versions) == (3, 7, 4, 2)


def edit(kind: Any, key: str, **changes: Any) -> Callable[[Records], None]:
    """Replace fields of one record."""

    def change(public: Records) -> None:
        public[key] = kind.decode(public[key]).model_copy(update=changes).encode()

    return change


def copy_signature(public: Records) -> None:
    mine, other = (place.header_key(TASK, 1, name) for name in INSTITUTIONS[:2])
    signature = SignedHeader.decode(public[other]).signature
    edit(SignedHeader, mine, signature=signature)(public)


def sign_another_base(public: Records) -> None:
    key = place.round_key(TASK, 1)
    edit(Round, key, base_digest="0" * 64)(public)


def forget_header(public: Records) -> None:
    del public[place.header_key(TASK, 1, INSTITUTIONS[0])]


def forget_enrolment(public: Records) -> None:
    del public[place.enrolment_key(TASK, INSTITUTIONS[0])]


def vote_as_institution(public: Records) -> None:
    vote = Vote.decode(public[VOTE]).model_copy(update={"organisation": INSTITUTIONS[0]})
    public[place.vote_key(TASK, 2, INSTITUTIONS[0])] = vote.encode()


def declare_more(public: Records) -> None:
    round_ = Round.decode(public[ROUND])
    parts = tuple(one.model_copy(update={"samples": 10 * one.samples}) for one in round_.participants[:1])
    public[ROUND] = round_.model_copy(update={"participants": (*parts, *round_.participants[1:])}).encode()


def invent_norms(public: Records) -> None:
    round_ = Round.decode(public[ROUND])
    norms = freeze_norms(make_strict_spec()[0], 1_000_000, round_.scale, has_reference=True)
    public[ROUND] = round_.model_copy(update={"norms": norms}).encode()


def refreeze(accepted: tuple[str, ...], **lists: tuple[str, ...]) -> Callable[[Records], None]:
    """Freeze other lists in round 2, and all that follows from who was accepted, as a bent majority could."""

    def change(public: Records) -> None:
        round_ = Round.decode(public[ROUND])
        total = sum(one.weight for one in round_.participants if one.organisation in accepted)
        edit(Round, ROUND, accepted=accepted, total_weight=total, **lists)(public)
        edit(Aggregate, AGGREGATE, accepted=accepted, total_weight=total)(public)
        edit(Model, MODEL, accepted=accepted, total_weight=total)(public)

    return change


def reject_two(public: Records) -> None:
    for organisation in INSTITUTIONS[:2]:
        edit(Update, place.update_key(TASK, 2, organisation), state="rejected", code="BFL416")(public)
    refreeze(INSTITUTIONS[2:], rejected=INSTITUTIONS[:2])(public)


def close_early(public: Records) -> None:
    edit(Update, place.update_key(TASK, 2, INSTITUTIONS[0]), state="submitted")(public)
    refreeze(INSTITUTIONS[1:], unjudged=INSTITUTIONS[:1])(public)


def reopen(public: Records) -> None:
    edit(Round, ROUND, state="open")(public)


def forget_update(public: Records) -> None:
    del public[place.update_key(TASK, 2, INSTITUTIONS[0])]
    refreeze(INSTITUTIONS[1:], absent=INSTITUTIONS[:1])(public)


def sign_other_terms(**terms: Any) -> Callable[[Records], None]:
    """Have alpha sign a header of round 2 with other terms, on which the verdict then is."""

    def change(public: Records) -> None:
        signed = sign_changed(public, INSTITUTIONS[0], **terms)
        public[place.header_key(TASK, 2, INSTITUTIONS[0])] = signed.encode()
        key = place.update_key(TASK, 2, INSTITUTIONS[0])
        edit(Update, key, header_digest=signed.header.record_digest)(public)

    return change


def sign_changed(public: Records, organisation: str, **terms: Any) -> SignedHeader:
    header = SignedHeader.decode(public[place.header_key(TASK, 2, organisation)]).header
    return sign_header(header.model_copy(update=terms), World().signers[organisation].sign)


def accuse(second: Callable[[Records], SignedHeader], **changes: Any) -> Callable[[Records], None]:
    """Record an equivocation of alpha in round 2 with this second header."""

    def change(public: Records) -> None:
        first = SignedHeader.decode(public[place.header_key(TASK, 2, INSTITUTIONS[0])]).header
        proof = Equivocation(
            task=TASK,
            round=2,
            organisation=INSTITUTIONS[0],
            first_digest=first.record_digest,
            second=second(public),
            recorded_at_ms=5,
        ).model_copy(update=changes)
        public[place.equivocation_key(TASK, 2, INSTITUTIONS[0])] = proof.encode()

    return change


def sign_second(public: Records) -> SignedHeader:
    return sign_changed(public, INSTITUTIONS[0], payload_digest="a" * 64)


def forge_second(public: Records) -> SignedHeader:
    return sign_second(public).model_copy(update={"signature": sign_changed(public, INSTITUTIONS[0]).signature})


VOTE = place.vote_key(TASK, 2, "regulator")
UPDATE = place.update_key(TASK, 1, INSTITUTIONS[0])
ROUND, MODEL, AGGREGATE = place.round_key(TASK, 2), place.model_key(TASK, 2), place.aggregate_key(TASK, 2)
FAULTS: dict[str, tuple[Callable[[Records], None], str]] = {
    "a verdict on another header": (edit(Update, UPDATE, header_digest="0" * 64), "another header"),
    "somebody else's signature": (copy_signature, "BFL407"),
    "an update without its header": (forget_header, "no record header/"),
    "a certificate that was never enrolled": (forget_enrolment, "never enrolled a certificate"),
    "an update for another base": (sign_another_base, "BFL403 base digest"),
    "an accepted update that was rejected": (
        edit(Update, UPDATE, state="rejected", code="BFL416"),
        "no accepted update",
    ),
    "a wrong total weight": (edit(Round, ROUND, total_weight=1), "total weight 1"),
    "a version that skips one": (
        edit(Model, MODEL, version=3),
        "record model/heart/000002: it is the one of model/heart/000003",
    ),
    "a version with another base": (edit(Model, MODEL, base_digest="0" * 64), "does not follow from version 1"),
    "a round that was not published": (edit(Round, ROUND, state="closed"), "was not built on version 1"),
    "a sum that nobody attested": (edit(Aggregate, AGGREGATE, state="pending"), "not the one that the committee"),
    "another sum than the attested one": (edit(Model, MODEL, sum=None), "not the one that the committee"),
    "other accepted updates": (edit(Model, MODEL, accepted=INSTITUTIONS[:3]), "different accepted updates"),
    "another scale": (edit(Model, MODEL, scale=0), "weight or scale"),
    "a version that too few voted for": (
        edit(Vote, VOTE, digest="f" * 64),
        "version 2 names the votes of coordinator, regulator, for it voted coordinator, needed are 2",
    ),
    "a version that names other voters": (edit(Model, MODEL, voters=("regulator",)), "names the votes of regulator"),
    "a round that wanted more votes": (edit(Round, ROUND, threshold=3), "needed are 3"),
    "another bound than the task's": (edit(Round, ROUND, bound_l2_squared="1"), "scale or bounds do not follow"),
    "another bound on values": (edit(Round, ROUND, bound_linf=1), "scale or bounds do not follow"),
    "a weight that nobody declared samples for": (declare_more, "weights do not follow from the declared samples"),
    "norm rules that the task does not have": (invent_norms, "norm rules do not follow"),
    "a vote of an institution": (vote_as_institution, "alpha voted and is not in the round's committee"),
    "an accepted update that is called rejected": (
        refreeze(INSTITUTIONS[1:], rejected=INSTITUTIONS[:1]),
        "names as accepted beta, delta, gamma; the verdicts make that alpha, beta, delta, gamma",
    ),
    "an accepted update that is called absent": (refreeze(INSTITUTIONS[1:], absent=INSTITUTIONS[:1]), "as accepted"),
    "an accepted update that is in no list": (refreeze(INSTITUTIONS[1:]), "as accepted"),
    "an accepted one that is rejected too": (
        edit(Round, ROUND, rejected=("alpha",)),
        "names as rejected alpha; .*nobo",
    ),
    "an accepted one that is unjudged too": (
        edit(Round, ROUND, unjudged=("alpha",)),
        "names as unjudged alpha; .*nobo",
    ),
    "an accepted one that is absent too": (edit(Round, ROUND, absent=("alpha",)), "names as absent alpha; .*nobo"),
    "an open round that names accepted updates": (reopen, "it is open and names as accepted alpha"),
    "a round with too few accepted updates": (reject_two, "it is published with 2 accepted updates, the task needs 3"),
    "a round that did not wait for a verdict": (close_early, "it could not be closed: BFL106"),
    "a header whose update is not on record": (forget_update, "header of alpha has no record of its update"),
    "a header of another network": (sign_other_terms(network="other"), "BFL401"),
    "a header of another model": (sign_other_terms(manifest_digest="0" * 64), "BFL404"),
    "a header with another weight": (sign_other_terms(weight=255), "BFL405 weight"),
    "a header with another scale": (sign_other_terms(scale=-5), "BFL405 scale"),
    "a header with another bound": (sign_other_terms(bound_l2_squared="1"), "BFL405 bound_l2_squared"),
    "a header without its commitment": (sign_other_terms(commitment_digest=None), "BFL418"),
    "an equivocator that was accepted": (
        accuse(sign_second),
        "names as accepted alpha, beta, delta, gamma; the verdicts make that beta, delta, gamma",
    ),
    "an equivocation that nobody signed": (accuse(forge_second), "equivocation of alpha: BFL407"),
    "an equivocation with one header": (
        accuse(lambda public: sign_changed(public, INSTITUTIONS[0])),
        "equivocation of alpha: it does not show two different headers",
    ),
    "an equivocation about another first header": (
        accuse(sign_second, first_digest="0" * 64),
        "equivocation of alpha: it does not show two different headers",
    ),
    "an equivocation with somebody else's header": (
        accuse(lambda public: sign_changed(public, INSTITUTIONS[1], payload_digest="a" * 64)),
        "equivocation of alpha: the second header is one of beta",
    ),
    "an equivocation in another round": (
        accuse(lambda public: sign_changed(public, INSTITUTIONS[0], round=1)),
        "equivocation of alpha: BFL402",
    ),
    "another initial model": (edit(Model, place.model_key(TASK, 0), digest="0" * 64), "not the task's initial model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_record_that_is_not_as_it_must_be_is_named(
    told: tuple[Records, dict[tuple[str, str], bytes]], fault: str
) -> None:
    public, private = told
    change, said = FAULTS[fault]
    change(public)
    with pytest.raises(VerificationError, match=said):
        verify(public, private)


def test_a_vote_that_was_changed_is_named(told: tuple[Records, dict[tuple[str, str], bytes]]) -> None:
    public, private = told
    earlier = Vote.decode(public[VOTE]).model_copy(update={"digest": "f" * 64})
    history = make_history(public, private, first=[Write(block_number=0, key=VOTE, value=earlier.encode())])
    with pytest.raises(VerificationError, match="regulator voted more than once"):
        verify_task(history, history.get(Task, place.task_key(TASK)))


def test_a_vote_for_another_model_is_told(told: tuple[Records, dict[tuple[str, str], bytes]]) -> None:
    public, private = told
    vote = Vote.decode(public[VOTE]).model_copy(update={"organisation": "university", "digest": "f" * 64})
    public[place.vote_key(TASK, 2, "university")] = vote.encode()
    assert verify(public, private).outvoted == ("university in round 2",)


@pytest.mark.parametrize(("block", "counts"), [(1, True), (2, False)])
def test_only_votes_that_came_before_the_version_count(
    told: tuple[Records, dict[tuple[str, str], bytes]], block: int, counts: bool
) -> None:
    public, private = told
    vote = Vote.decode(public[VOTE]).model_copy(update={"organisation": "university", "voted_at_ms": 0})
    late = Write(block_number=block, key=place.vote_key(TASK, 2, "university"), value=vote.encode())
    history = make_history(public, private, last=[late])
    task = history.get(Task, place.task_key(TASK))
    if not counts:
        assert verify_task(history, task).versions == 3
        return
    with pytest.raises(VerificationError, match="for it voted coordinator, regulator, university"):
        verify_task(history, task)


def test_a_round_that_was_given_up_is_told(told: tuple[Records, dict[tuple[str, str], bytes]]) -> None:
    public, private = told
    for key in [key for key in public if key.startswith(f"vote/{TASK}/000002/")] + [MODEL]:
        del public[key]
    edit(Round, ROUND, state="failed", failure="abandoned")(public)
    proof = verify(public, private)
    assert (proof.abandoned, proof.versions) == ((2,), 2)


def test_a_chunk_that_was_exchanged_is_named(told: tuple[Records, dict[tuple[str, str], bytes]]) -> None:
    public, private = told
    private[place.SEALED, place.sealed_chunk_key(TASK, 1, INSTITUTIONS[0], 0)] = hash_value(b"another")
    with pytest.raises(VerificationError, match="chunk 0 on the ledger is not the one that was signed"):
        verify(public, private)


def test_sealed_chunks_that_have_been_purged_are_no_fault(
    told: tuple[Records, dict[tuple[str, str], bytes]],
) -> None:
    public, private = told
    kept = {at: value for at, value in private.items() if at[0] != place.SEALED}
    assert len(kept) < len(private)
    assert verify(public, kept).accepted == 8


def test_a_sum_that_is_not_on_the_ledger_is_named(told: tuple[Records, dict[tuple[str, str], bytes]]) -> None:
    public, private = told
    total = Model.decode(public[MODEL]).sum
    assert total is not None
    del private[place.MODELS, place.model_chunk_key(TASK, total.chunks[0])]
    with pytest.raises(VerificationError, match="is not on the ledger"):
        verify(public, private)


# --- a task with every norm rule


@pytest.fixture
async def strict() -> tuple[Records, dict[tuple[str, str], bytes]]:
    """The same of three published rounds with norm rules, in the second of which one update was rejected."""
    world = World()
    task = StrictTask(world, world.consortium, world.signers, world.opening_keys, make_strict_spec())
    await task.prepare()
    _, model = await task.play(1, task.initial_model, {})
    _, model = await task.play(2, model, {"gamma": "least norm"})
    await task.play(3, model, {})
    cells = world.snapshot()
    public = {key: cell.value for (collection, key), cell in cells.items() if not collection}
    return public, {at: cell.value for at, cell in cells.items() if at[0]}


def test_rounds_whose_bound_adapts_verify(strict: tuple[Records, dict[tuple[str, str], bytes]]) -> None:
    assert verify(*strict).rounds == 3


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {"typical_l2_micro": 1},
        {"bound_l2_micro": 7},
        {"minimum_l2_squared": "0"},
        {"minimum_cosine_micro": 5},
        {"tensors": ()},
    ],
)
def test_norm_rules_other_than_those_that_follow_are_named(
    strict: tuple[Records, dict[tuple[str, str], bytes]], number: int, changes: dict[str, Any]
) -> None:
    public, private = strict
    key = place.round_key(TASK, number)
    norms = Round.decode(public[key]).norms
    assert isinstance(norms, RoundNorms)
    edit(Round, key, norms=norms.model_copy(update=changes))(public)
    with pytest.raises(VerificationError, match=f"round {number}: (the norm rules|scale or bounds) do not follow"):
        verify(public, private)


def test_a_round_that_forgot_its_norm_rules_is_named(strict: tuple[Records, dict[tuple[str, str], bytes]]) -> None:
    public, private = strict
    edit(Round, place.round_key(TASK, 1), norms=None)(public)
    with pytest.raises(VerificationError, match="round 1: the norm rules do not follow"):
        verify(public, private)


# --- withdrawn certificates


@pytest.mark.parametrize("before", [True, False])
def test_an_update_signed_with_a_certificate_withdrawn_before_is_named_and_one_after_stands(
    told: tuple[Records, dict[tuple[str, str], bytes]], before: bool
) -> None:
    public, private = told
    header = SignedHeader.decode(public[place.header_key(TASK, 2, INSTITUTIONS[0])]).header
    digest = header.certificate_digest
    record = Withdrawal(organisation=INSTITUTIONS[0], certificate_digest=digest, withdrawn_at_ms=5)
    key, value = place.withdrawal_key(INSTITUTIONS[0], digest), record.encode()
    first = [Write(block_number=0, key=key, value=value)] if before else []
    history = make_history(public, private, first=first, last=[Write(block_number=2, key=key, value=value)])
    task = history.get(Task, place.task_key(TASK))
    if not before:
        assert verify_task(history, task).accepted == 8
        return
    with pytest.raises(VerificationError, match="signed with a certificate that alpha had withdrawn"):
        verify_task(history, task)
