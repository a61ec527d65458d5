"""What a round pays and what it costs, from public records only.

An institution is paid pool · its points, over 1000 · the number of participants: what it declares earns nothing, and
nobody's share grows when others are rejected. What is not paid, remainders of divisions included, stays in the
treasury. Penalties are thousandths of the required stake, rounded down, and never more than the stake that is left.
A round that the committee has not scored in time is settled without points: nobody is paid for an update or for
judging, and what its update is worth changes nobody's standing.

    settlement = settle_round(facts, standings, treasury=treasury, balances=balances, now_ms=now_ms)

Source: ``docs/economics.md``, settlement.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from blockfl.protocol.canonical import MAX_INTEGER
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import Economics, Outcome, Payment, Score, Settlement, Standing, Verdict
from blockfl.protocol.effect import find_verdict
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.moment import format_moment
from blockfl.protocol.records import Model, Organisations, Participant, Round, Update, Vote
from blockfl.protocol.reputation import compute_reputation, suspend
from blockfl.protocol.rules import JUDGING
from blockfl.protocol.task import TaskSpec

_MAX_DEBT: Final = 5_000


@dataclass(frozen=True, kw_only=True)
class Facts:
    """The public records of a published round that its settlement follows from.

    Attributes:
        spec: The task's, with economics.
        round_: The round.
        updates: What was submitted, by organisation.
        equivocators: Who signed two headers.
        score: The round's points, or that there are none yet.
        model: The version that the round made.
        base: The version that it was built on.
        base_votes: The committee's votes in the round that made ``base``.
        reports: What institutions reported of ``base``, when the round is the first that was built on it.
    """

    spec: TaskSpec
    round_: Round
    updates: Mapping[str, Update]
    equivocators: tuple[str, ...]
    score: Score
    model: Model
    base: Model | None = None
    base_votes: tuple[Vote, ...] = ()
    reports: tuple[Metrics, ...] = ()


def require_economics(spec: TaskSpec) -> Economics:
    """Return the task's policy.

    Raises:
        ProtocolError: BFL604 when it has none.
    """
    if spec.economics is None:
        raise ProtocolError(Code.NO_ECONOMICS, f"task {spec.task} was created without economics: it moves no credits")
    return spec.economics


def check_scoring(round_: Round) -> None:
    """Check that a round has a fixed set of accepted updates.

    Raises:
        ProtocolError: BFL609 for a failed round, BFL107 for an open one.
    """
    if round_.state == "failed":
        raise ProtocolError(
            Code.ROUND_FAILED, f"round {round_.round} of {round_.task} failed: it pays and costs nothing"
        )
    if round_.state == "open":
        raise ProtocolError(Code.ROUND_NOT_CLOSED, f"round {round_.round} of {round_.task} is open: close it first")


def compute_scoring_deadline(spec: TaskSpec, model: Model) -> int:
    """Return until when, in ms, the round that made this version waits for its points."""
    return model.published_at_ms + 1000 * spec.deadlines.publish_s


def check_settling(round_: Round) -> None:
    """Check that a round can be settled, now or when it has points.

    Raises:
        ProtocolError: BFL609 for a failed round, BFL107 for one that is not published.
    """
    if round_.state == "failed":
        raise ProtocolError(
            Code.ROUND_FAILED, f"round {round_.round} of {round_.task} failed: it pays and costs nothing"
        )
    if round_.state != "published":
        raise ProtocolError(
            Code.ROUND_NOT_CLOSED, f"round {round_.round} of {round_.task} is {round_.state}, expected published"
        )


def _check_scored(facts: Facts, now_ms: int) -> None:
    """Check that a published round has its points, or that the time for them is over: nobody's stake waits for ever."""
    deadline_ms = compute_scoring_deadline(facts.spec, facts.model)
    if facts.score.state != "scored" and now_ms <= deadline_ms:
        raise ProtocolError(
            Code.NOT_SCORED,
            f"round {facts.round_.round} of {facts.round_.task} has no points yet: score it first, or settle it "
            f"without after {format_moment(deadline_ms)}, the transaction's time is {format_moment(now_ms)}",
        )


def settle_round(
    facts: Facts, standings: Mapping[str, Standing], *, treasury: int, balances: Mapping[str, int], now_ms: int
) -> Settlement:
    """Return the settlement of a published round that is scored, or that was not scored in time.

    Args:
        facts: The round's records.
        standings: Of every participant, before the round.
        treasury: Its credits before.
        balances: Free credits of everybody who voted on the base version, before.
        now_ms: The transaction's time.

    Raises:
        ProtocolError: As ``check_settling`` and ``require_economics``; BFL605 for a round without points that may
            still get them.
    """
    policy = require_economics(facts.spec)
    check_settling(facts.round_)
    _check_scored(facts, now_ms)
    judged = {one.organisation: _judge(policy, facts, one, standings[one.organisation]) for one in _parts(facts)}
    fines = _list_fines(policy, facts, balances)
    treasury += sum(penalty for _, _, penalty in judged.values()) + sum(one.amount for one in fines)
    fees = _list_fees(policy, facts, treasury)
    treasury -= sum(one.amount for one in fees)
    pool, outcomes = min(policy.pool, treasury), []
    for part in _parts(facts):
        verdict, code, penalty = judged[part.organisation]
        outcome = _settle(facts, part, standings[part.organisation], verdict, code, penalty, pool)
        treasury -= outcome.reward
        outcomes.append(outcome)
    return Settlement(
        task=facts.spec.task,
        round=facts.round_.round,
        state="scored" if facts.score.state == "scored" else "unscored",
        outcomes=tuple(outcomes),
        fees=fees,
        fines=fines,
        treasury=treasury,
        settled_at_ms=now_ms,
    )


def list_payments(settlement: Settlement) -> dict[str, int]:
    """Return by how much the free credits of each organisation change."""
    changes: dict[str, int] = {}
    for outcome in settlement.outcomes:
        changes[outcome.organisation] = changes.get(outcome.organisation, 0) + outcome.reward
    for fee in settlement.fees:
        changes[fee.organisation] = changes.get(fee.organisation, 0) + fee.amount
    for fine in settlement.fines:
        changes[fine.organisation] = changes.get(fine.organisation, 0) - fine.amount
    return {name: changes[name] for name in sorted(changes) if changes[name]}


def is_contested(model: Model, reports: tuple[Metrics, ...], participants: int) -> bool:
    """Whether more than half of a round's participants arrived at another digest than the one published."""
    contesting = [one for one in reports if one.version == model.version and one.model_digest != model.digest]
    return 2 * len(contesting) > participants


def list_misled(facts: Facts) -> Organisations:
    """Return the committee members whose vote on the base version most participants contradict, ascending.

    Those who voted for it, if most arrived at another digest; those who voted otherwise, if most arrived at it.
    """
    base, participants = facts.base, len(facts.round_.participants)
    if base is None:
        return ()
    confirming = [one for one in facts.reports if one.version == base.version and one.model_digest == base.digest]
    is_confirmed = 2 * len(confirming) > participants
    contested = is_contested(base, facts.reports, participants)
    return tuple(
        sorted(
            one.organisation for one in facts.base_votes if (contested if one.digest == base.digest else is_confirmed)
        )
    )


def _parts(facts: Facts) -> tuple[Participant, ...]:
    return facts.round_.participants


def _judge(policy: Economics, facts: Facts, part: Participant, standing: Standing) -> tuple[Verdict, str, int]:
    """Return the verdict on a participant, its code, and the penalty."""
    name, code = part.organisation, ""
    verdict: Verdict
    if name in facts.equivocators:
        verdict, code, share = "equivocated", Code.EQUIVOCATION.identifier, policy.equivocation
    elif name in facts.round_.accepted:
        return "accepted", "", 0
    elif name in facts.round_.rejected:
        verdict, code = "rejected", find_verdict(facts.round_, facts.updates[name]).code
        share = _find_share(policy, code)
    elif name in facts.round_.absent:
        if facts.base is not None and is_contested(facts.base, facts.reports, len(facts.round_.participants)):
            return "unjudged", "", 0  # nobody has to build on a model that does not come out as published
        verdict = "absent"
        share = policy.absence * min(standing.absences + 1, policy.absence_limit)
    else:
        return "unjudged", "", 0
    return verdict, code, min(standing.stake, standing.required * share // 1000)


def _find_share(policy: Economics, code: str) -> int:
    if code == Code.HARMFUL.identifier:
        return 0  # rows unlike the committee's are no breach: such an update is left out, and paid nothing
    rule = next((rule for rule in JUDGING if rule.code.identifier == code), None)
    if rule is None:
        raise ProtocolError(Code.MALFORMED, f"expected the code of a rule about updates, got {code}")
    match rule.penalty:
        case "norm":
            return policy.norm
        case "seal":
            return policy.seal
        case "format":
            return policy.format
        case "late":
            return policy.late


def _settle(
    facts: Facts, part: Participant, before: Standing, verdict: Verdict, code: str, penalty: int, pool: int
) -> Outcome:
    policy = require_economics(facts.spec)
    points = next((one.points for one in facts.score.credits if one.organisation == part.organisation), 0)
    paid = points - before.debt if verdict == "accepted" else 0
    reward = pool * max(0, paid) // (1000 * len(_parts(facts)))
    reputation = compute_reputation(policy, before.reputation, verdict, paid=paid > 0)
    if verdict == "accepted" and facts.score.state != "scored":
        reputation = before.reputation  # what the committee did not do says nothing of the institution
    after = before.model_copy(
        update={
            "stake": before.stake - penalty,
            "reputation": reputation,
            "debt": min(_MAX_DEBT, max(0, -paid)) if verdict == "accepted" else before.debt,
            "absences": before.absences + 1 if verdict == "absent" else before.absences * (verdict == "unjudged"),
            # Credits go round: over the years more may be earned than there are, and than a number can say.
            "earned": min(MAX_INTEGER, before.earned + reward),
            "slashed": min(MAX_INTEGER, before.slashed + penalty),
        }
    )
    return Outcome(
        organisation=part.organisation,
        verdict=verdict,
        code=code,
        points=points if verdict == "accepted" else 0,
        reward=reward,
        penalty=penalty,
        standing=suspend(policy, after, facts.round_.round),
    )


def _list_fines(policy: Economics, facts: Facts, balances: Mapping[str, int]) -> tuple[Payment, ...]:
    """A participant that voted for another model than the one that most participants arrived at pays, once."""
    version = facts.base.version if facts.base else 0
    return tuple(
        Payment(
            organisation=name, amount=min(policy.forgery, balances[name]), reason=f"voted wrongly on version {version}"
        )
        for name in list_misled(facts)
    )


def _list_fees(policy: Economics, facts: Facts, treasury: int) -> tuple[Payment, ...]:
    """Fees in ascending order, as long as the treasury has them.

    None for the members in a round where an update stayed unjudged, or that they did not score; the aggregator's goes
    to the member that brought the sum when the aggregator missed its deadline.
    """
    due = []
    if not facts.round_.unjudged and facts.score.state == "scored":
        due += [(one.organisation, policy.member_fee, "judged every update") for one in facts.round_.committee]
    is_late = facts.model.published_at_ms > facts.round_.closed_at_ms + 1000 * policy.publish_s
    if facts.model.summed_by == facts.spec.aggregator and not is_late:
        due.append((facts.model.summed_by, policy.aggregator_fee, "summed in time"))
    elif facts.model.summed_by != facts.spec.aggregator and is_late:
        due.append((facts.model.summed_by, policy.aggregator_fee, "summed in the aggregator's place"))
    fees = []
    for organisation, amount, reason in due:
        if 0 < amount <= treasury:
            fees.append(Payment(organisation=organisation, amount=amount, reason=reason))
            treasury -= amount
    return tuple(fees)
