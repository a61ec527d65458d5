"""What the auditor finds in the records of a task: every fixture breaks one thing, as colluding organisations could."""

from collections.abc import Callable
from typing import Any

import pytest

from blockfl.audit.errors import VerificationError
from blockfl.protocol import catalogue
from blockfl.protocol.claims import Equivocation, Withdrawal
from blockfl.protocol.norm_rules import RoundNorms
from blockfl.protocol.records import Aggregate, Model, Round, SignedHeader, Update, Vote
from blockfl.protocol.submission import sign_header
from support.federation import INSTITUTIONS
from support.read_write_sets import hash_value
from support.recorded_world import Recorded, Telling, make_recorded_scenario, tell
from support.scenario import TASK, Scenario
from support.strict_task import StrictTask, make_strict_spec
from support.world import World


@pytest.fixture
async def told() -> Telling:
    """What is on the ledger after two published rounds."""
    scenario = make_recorded_scenario()
    await scenario.prepare()
    model = scenario.initial_model
    for number in (1, 2):
        await scenario.open(number)
        await scenario.contribute(*INSTITUTIONS, number=number)
        await scenario.close(number)
        await scenario.attest(number)
        model = await scenario.publish(number, model)
    return tell(scenario)


def test_two_honest_rounds_verify(told: Telling) -> None:
    proof = told.verify()
    assert (proof.rounds, proof.updates, proof.accepted, proof.versions) == (2, 8, 8, 3)


async def test_rounds_with_every_kind_of_outcome_verify() -> None:
    """An equivocator, somebody absent, an update that nobody judged, a round that failed, one that is open."""
    world = Recorded()
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
    told = Telling(world)
    rounds = [Round.decode(told[catalogue.ROUND.key(TASK, number)]) for number in (1, 2, 3)]
    assert [(one.rejected, one.unjudged, one.absent) for one in rounds[:2]] == [
        (("gamma",), (), ()),
        ((), ("beta",), ("delta", "gamma")),
    ]
    proof = told.verify()
    assert (proof.rounds, proof.updates, proof.accepted, proof.versions) == (3, 7, 4, 2)


OPENED, CLOSED, LAST = 0, 1, -1
"""From which of a round's writes on a fault is in it."""


def edit(kind: Any, key: str, since: int = LAST, **changes: Any) -> Callable[[Telling], None]:
    """Replace fields of a record, in its last write or in all from one on."""

    def change(told: Telling) -> None:
        for index in range(since % told.count(key), told.count(key)):
            told.replace(key, index, kind.decode(told.read(key, index)).model_copy(update=changes).encode())

    return change


def copy_signature(told: Telling) -> None:
    mine, other = (catalogue.HEADER.key(TASK, 1, name) for name in INSTITUTIONS[:2])
    signature = SignedHeader.decode(told[other]).signature
    edit(SignedHeader, mine, signature=signature)(told)


def forget_header(told: Telling) -> None:
    del told[catalogue.HEADER.key(TASK, 1, INSTITUTIONS[0])]


def vote_as_institution(told: Telling) -> None:
    vote = Vote.decode(told[VOTE]).model_copy(update={"organisation": INSTITUTIONS[0]})
    told[catalogue.VOTE.key(TASK, 2, INSTITUTIONS[0])] = vote.encode()


def refreeze(accepted: tuple[str, ...], **lists: tuple[str, ...]) -> Callable[[Telling], None]:
    """Freeze other lists in round 2, and all that follows from who was accepted, as a bent majority could."""

    def change(told: Telling) -> None:
        round_ = Round.decode(told[ROUND])
        total = sum(one.weight for one in round_.participants if one.organisation in accepted)
        edit(Round, ROUND, CLOSED, accepted=accepted, divisor=total, **lists)(told)
        edit(Aggregate, AGGREGATE, accepted=accepted, divisor=total)(told)
        edit(Model, MODEL, accepted=accepted, divisor=total)(told)

    return change


def reject_two(told: Telling) -> None:
    for organisation in INSTITUTIONS[:2]:
        edit(Update, catalogue.UPDATE.key(TASK, 2, organisation), state="rejected", code="BFL416")(told)
    refreeze(INSTITUTIONS[2:], rejected=INSTITUTIONS[:2])(told)


def close_early(told: Telling) -> None:
    edit(Update, catalogue.UPDATE.key(TASK, 2, INSTITUTIONS[0]), state="submitted")(told)
    refreeze(INSTITUTIONS[1:], unjudged=INSTITUTIONS[:1])(told)


def forget_publication(told: Telling) -> None:
    told.take_back(ROUND)


def vote_alone(told: Telling) -> None:
    del told[VOTE]
    edit(Model, MODEL, voters=("coordinator",))(told)


def forget_update(told: Telling) -> None:
    del told[catalogue.UPDATE.key(TASK, 2, INSTITUTIONS[0])]
    refreeze(INSTITUTIONS[1:], absent=INSTITUTIONS[:1])(told)


def sign_other_terms(**terms: Any) -> Callable[[Telling], None]:
    """Have alpha sign a header of round 2 with other terms, on which the verdict then is."""

    def change(told: Telling) -> None:
        signed = sign_changed(told, INSTITUTIONS[0], **terms)
        told[catalogue.HEADER.key(TASK, 2, INSTITUTIONS[0])] = signed.encode()
        key = catalogue.UPDATE.key(TASK, 2, INSTITUTIONS[0])
        edit(Update, key, header_digest=signed.header.record_digest)(told)

    return change


def sign_changed(told: Telling, organisation: str, **terms: Any) -> SignedHeader:
    header = SignedHeader.decode(told[catalogue.HEADER.key(TASK, 2, organisation)]).header
    return sign_header(header.model_copy(update=terms), World().signers[organisation].sign)


def accuse(second: Callable[[Telling], SignedHeader], **changes: Any) -> Callable[[Telling], None]:
    """Record an equivocation of alpha in round 2 with this second header."""

    def change(told: Telling) -> None:
        first = SignedHeader.decode(told[catalogue.HEADER.key(TASK, 2, INSTITUTIONS[0])]).header
        proof = Equivocation(
            task=TASK,
            round=2,
            organisation=INSTITUTIONS[0],
            first_digest=first.record_digest,
            second=second(told),
            recorded_at_ms=5,
        ).model_copy(update=changes)
        told[catalogue.EQUIVOCATION.key(TASK, 2, INSTITUTIONS[0])] = proof.encode()

    return change


def sign_second(told: Telling) -> SignedHeader:
    return sign_changed(told, INSTITUTIONS[0], payload_digest="a" * 64)


def forge_second(told: Telling) -> SignedHeader:
    return sign_second(told).model_copy(update={"signature": sign_changed(told, INSTITUTIONS[0]).signature})


VOTE = catalogue.VOTE.key(TASK, 2, "regulator")
UPDATE = catalogue.UPDATE.key(TASK, 1, INSTITUTIONS[0])
ROUND, MODEL, AGGREGATE = catalogue.ROUND.key(TASK, 2), catalogue.MODEL.key(TASK, 2), catalogue.AGGREGATE.key(TASK, 2)
FAULTS: dict[str, tuple[Callable[[Telling], None], str]] = {
    "a verdict on another header": (edit(Update, UPDATE, header_digest="0" * 64), "another header"),
    "somebody else's signature": (copy_signature, "BFL407"),
    "an update without its header": (forget_header, "no record header/"),
    "an update for another base": (sign_other_terms(base_digest="0" * 64), "BFL403 base digest"),
    "an update with another certificate": (sign_other_terms(certificate_digest="0" * 64), "BFL205"),
    "an accepted update that was rejected": (
        edit(Update, UPDATE, state="rejected", code="BFL416"),
        "no accepted update",
    ),
    "a wrong divisor": (edit(Round, ROUND, CLOSED, divisor=1), "divisor 1"),
    "a version that skips one": (
        edit(Model, MODEL, version=3),
        "record model/heart/000002: it is the one of model/heart/000003",
    ),
    "a version with another base": (edit(Model, MODEL, base_digest="0" * 64), "does not follow from version 1"),
    "a round that was not published": (forget_publication, "was not built on version 1"),
    "a sum that nobody attested": (edit(Aggregate, AGGREGATE, state="pending"), "not the one that the committee"),
    "another sum than the attested one": (edit(Model, MODEL, sum=None), "not the one that the committee"),
    "other accepted updates": (edit(Model, MODEL, accepted=INSTITUTIONS[:3]), "different accepted updates"),
    "another scale": (edit(Model, MODEL, scale=0), "divisor or scale"),
    "a version that too few voted for": (
        edit(Vote, VOTE, digest="f" * 64),
        "version 2 names the votes of coordinator, regulator, for it voted coordinator, needed are 2",
    ),
    "a version that names other voters": (edit(Model, MODEL, voters=("regulator",)), "names the votes of regulator"),
    "a version that one member alone voted for": (
        vote_alone,
        "version 2 names the votes of coordinator, for it voted coordinator, needed are 2",
    ),
    "a vote of an institution": (vote_as_institution, "alpha voted and is not in the round's committee"),
    "an accepted update that is called rejected": (
        refreeze(INSTITUTIONS[1:], rejected=INSTITUTIONS[:1]),
        "names as accepted beta, delta, gamma; the verdicts make that alpha, beta, delta, gamma",
    ),
    "an accepted update that is called absent": (refreeze(INSTITUTIONS[1:], absent=INSTITUTIONS[:1]), "as accepted"),
    "an accepted update that is in no list": (refreeze(INSTITUTIONS[1:]), "as accepted"),
    "an accepted one that is rejected too": (
        edit(Round, ROUND, CLOSED, rejected=("alpha",)),
        "names as rejected alpha; .*nobo",
    ),
    "an accepted one that is unjudged too": (
        edit(Round, ROUND, CLOSED, unjudged=("alpha",)),
        "names as unjudged alpha; .*nobo",
    ),
    "an accepted one that is absent too": (
        edit(Round, ROUND, CLOSED, absent=("alpha",)),
        "names as absent alpha; .*nobo",
    ),
    "a round with too few accepted updates": (reject_two, "it is closed with 2 accepted updates, the task needs 3"),
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
        accuse(lambda told: sign_changed(told, INSTITUTIONS[0])),
        "equivocation of alpha: it does not show two different headers",
    ),
    "an equivocation about another first header": (
        accuse(sign_second, first_digest="0" * 64),
        "equivocation of alpha: it does not show two different headers",
    ),
    "an equivocation with somebody else's header": (
        accuse(lambda told: sign_changed(told, INSTITUTIONS[1], payload_digest="a" * 64)),
        "equivocation of alpha: the second header is one of beta",
    ),
    "an equivocation in another round": (
        accuse(lambda told: sign_changed(told, INSTITUTIONS[0], round=1)),
        "equivocation of alpha: BFL402",
    ),
    "another initial model": (
        edit(Model, catalogue.MODEL.key(TASK, 0), digest="0" * 64),
        "not the task's initial model",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_record_that_is_not_as_it_must_be_is_named(told: Telling, fault: str) -> None:
    change, said = FAULTS[fault]
    change(told)
    with pytest.raises(VerificationError, match=said):
        told.verify()


def test_a_vote_that_was_changed_is_named(told: Telling) -> None:
    told.append(VOTE, Vote.decode(told[VOTE]).model_copy(update={"digest": "f" * 64}).encode())
    with pytest.raises(VerificationError, match="regulator voted more than once"):
        told.verify()


def test_a_vote_for_another_model_is_told(told: Telling) -> None:
    vote = Vote.decode(told[VOTE]).model_copy(update={"organisation": "university", "digest": "f" * 64})
    told[catalogue.VOTE.key(TASK, 2, "university")] = vote.encode()
    assert told.verify().outvoted == ("university in round 2",)


@pytest.mark.parametrize(("shift", "counts"), [(0, True), (1, False)])
def test_only_votes_that_came_before_the_version_count(told: Telling, shift: int, counts: bool) -> None:
    vote = Vote.decode(told[VOTE]).model_copy(update={"organisation": "university", "voted_at_ms": 0})
    told.insert(catalogue.VOTE.key(TASK, 2, "university"), vote.encode(), MODEL, shift)
    if not counts:
        assert told.verify().versions == 3
        return
    with pytest.raises(VerificationError, match="for it voted coordinator, regulator, university"):
        told.verify()


def test_a_round_that_was_given_up_is_told(told: Telling) -> None:
    for key in [*told.list_keys(f"vote/{TASK}/000002/"), MODEL]:
        del told[key]
    told.take_back(catalogue.PROGRESS.key(TASK))
    edit(Round, ROUND, state="failed", failure="abandoned")(told)
    proof = told.verify()
    assert (proof.abandoned, proof.versions) == ((2,), 2)


def test_a_chunk_that_was_exchanged_is_named(told: Telling) -> None:
    told.private[catalogue.SEALED_COLLECTION, catalogue.sealed_chunk_key(TASK, 1, INSTITUTIONS[0], 0)] = hash_value(
        b"another"
    )
    with pytest.raises(VerificationError, match="chunk 0 on the ledger is not the one that was signed"):
        told.verify()


def test_sealed_chunks_that_have_been_purged_are_no_fault(
    told: Telling,
) -> None:
    before = len(told.private)
    told.private = {at: value for at, value in told.private.items() if at[0] != catalogue.SEALED_COLLECTION}
    assert len(told.private) < before
    assert told.verify().accepted == 8


def test_a_sum_that_is_not_on_the_ledger_is_named(told: Telling) -> None:
    total = Model.decode(told[MODEL]).sum
    assert total is not None
    del told.private[catalogue.MODEL_COLLECTION, catalogue.model_chunk_key(TASK, total.chunks[0])]
    with pytest.raises(VerificationError, match="is not on the ledger"):
        told.verify()


# --- a task with every norm rule


@pytest.fixture
async def strict() -> Telling:
    """The same of three published rounds with norm rules, in the second of which one update was rejected."""
    world = Recorded()
    task = StrictTask(world, world.consortium, world.signers, world.opening_keys, make_strict_spec())
    await task.prepare()
    _, model = await task.play(1, task.initial_model, {})
    _, model = await task.play(2, model, {"gamma": "least norm"})
    await task.play(3, model, {})
    return Telling(world)


def test_rounds_whose_bound_adapts_verify(strict: Telling) -> None:
    assert strict.verify().rounds == 3


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize(
    ("since", "changes"),
    [
        (OPENED, {"typical_l2_micro": 1}),
        (CLOSED, {"typical_l2_micro": 1}),
        (OPENED, {"bound_l2_micro": 7}),
        (OPENED, {"minimum_l2_squared": "0"}),
        (OPENED, {"minimum_cosine_micro": 5}),
        (OPENED, {"tensors": ()}),
        (CLOSED, {"tensors": ()}),
    ],
)
def test_norm_rules_other_than_those_that_follow_are_named(
    strict: Telling, number: int, since: int, changes: dict[str, Any]
) -> None:
    key = catalogue.ROUND.key(TASK, number)
    for index in range(since, strict.count(key)):
        round_ = Round.decode(strict.read(key, index))
        assert isinstance(round_.norms, RoundNorms)
        changed = round_.model_copy(update={"norms": round_.norms.model_copy(update=changes)})
        strict.replace(key, index, changed.encode())
    (field,) = changes
    what = "closed" if since else "opened"
    with pytest.raises(
        VerificationError, match=rf"round {number}: what it {what} with does not follow .*: norms \({field}\)$"
    ):
        strict.verify()


@pytest.mark.parametrize("since", [OPENED, CLOSED])
def test_a_round_that_forgot_its_norm_rules_is_named(strict: Telling, since: int) -> None:
    edit(Round, catalogue.ROUND.key(TASK, 1), since, norms=None)(strict)
    with pytest.raises(VerificationError, match=r"round 1: what it .* with does not follow .*: norms$"):
        strict.verify()


# --- withdrawn certificates


@pytest.mark.parametrize("shift", [-1, 1])
def test_an_update_signed_with_a_certificate_withdrawn_before_is_named_and_one_after_stands(
    told: Telling, shift: int
) -> None:
    submitted = catalogue.HEADER.key(TASK, 2, INSTITUTIONS[0])
    digest = SignedHeader.decode(told[submitted]).header.certificate_digest
    record = Withdrawal(organisation=INSTITUTIONS[0], certificate_digest=digest, withdrawn_at_ms=5)
    told.insert(catalogue.WITHDRAWAL.key(INSTITUTIONS[0], digest), record.encode(), submitted, shift)
    if shift > 0:
        assert told.verify().accepted == 8
        return
    with pytest.raises(VerificationError, match="signed with a certificate that alpha had withdrawn"):
        told.verify()
