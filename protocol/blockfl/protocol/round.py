"""The states of a round: open → closed → published; open or closed → failed. Rules only; the contract reads and writes.

Owns: when a round may open and close, who takes part, who is accepted; ``blockfl.protocol.publication`` goes on from
there. Every function takes records and the transaction's time and returns new records.

    round_ = open_round(task, progress, previous, consortium, keys, enrolments, number=1, now_ms=now_ms)
    round_ = close_round(
        round_, updates, (), minimum_accepted=minimum, now_ms=now_ms, aggregation=task.spec.aggregation
    )

Source: ``docs/protocol.md``, one round.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, TypedDict

from blockfl.protocol.aggregation import AggregationRule
from blockfl.protocol.assessment import Assessment
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.disclosure import is_disclosing, limit_shares
from blockfl.protocol.economics import Score
from blockfl.protocol.effect import freeze_effect, list_accepted, list_missing, settle_effect
from blockfl.protocol.moment import format_moment
from blockfl.protocol.norm_rules import RoundNorms
from blockfl.protocol.payload import ENCODINGS
from blockfl.protocol.records import (
    CommitteeKey,
    Consortium,
    Ending,
    Enrolment,
    Model,
    Organisations,
    Participant,
    Progress,
    Recipient,
    Round,
    RoundReferee,
    Update,
)
from blockfl.protocol.referee import choose_referee, is_reference_missed, is_reference_pending, settle_reference
from blockfl.protocol.selection import SelectionSeed, choose_participants
from blockfl.protocol.task import Deadlines, Task, TaskSpec
from blockfl.protocol.terms import (
    Bounds,
    choose_bound,
    compute_bounds,
    compute_typical,
    compute_weights,
    freeze_norms,
    freeze_statistics,
)


def check_spec(spec: TaskSpec, consortium: Consortium) -> None:
    """Check what a task's proposal says about the consortium.

    Raises:
        ProtocolError: BFL203 if an institution or evaluator of it has not that role, BFL202 if its aggregator, a
            referee or an assessor is not in the committee.
    """
    for organisation in (*spec.institutions, *spec.evaluators):
        if organisation not in consortium.having("institution"):
            raise ProtocolError(
                Code.NOT_INSTITUTION,
                f"{organisation} is not an institution of the consortium: choose among "
                f"{', '.join(consortium.having('institution'))}",
            )
    duties = (
        ("aggregator", spec.aggregator),
        *(("referee", one) for one in spec.referees),
        *(("assessor", one) for one in spec.assessors),
    )
    for duty, organisation in duties:
        if organisation not in consortium.committee:
            raise ProtocolError(
                Code.NOT_COMMITTEE,
                f"the {duty} {organisation} is not in the committee: choose among {', '.join(consortium.committee)}",
            )


def create_task(spec: TaskSpec, creator: str, now_ms: int) -> tuple[Task, Progress, Model]:
    """Return the records of a new task: itself, its progress before round 1, and version 0 of its model."""
    task = Task(spec=spec, manifest_digest=spec.manifest.record_digest, created_by=creator, created_at_ms=now_ms)
    progress = Progress(task=spec.task, round=0, version=0, model_digest=spec.initial_model.digest)
    model = Model(
        task=spec.task,
        version=0,
        round=0,
        digest=spec.initial_model.digest,
        base_digest=None,
        sum=None,
        scale=0,
        divisor=0,
        accepted=(),
        summed_by=creator,
        voters=(),
        published_at_ms=now_ms,
    )
    return task, progress, model


def list_candidates(spec: TaskSpec, consortium: Consortium) -> Organisations:
    """Return who may contribute now, ascending: institutions of the consortium, referees in its committee."""
    institutions = [one for one in spec.institutions if one in consortium.having("institution")]
    return tuple(sorted({*institutions, *({*spec.referees} & {*consortium.committee})}))


def open_round(
    task: Task,
    progress: Progress,
    previous: Round | None,
    consortium: Consortium,
    keys: Iterable[CommitteeKey],
    enrolments: Iterable[Enrolment],
    *,
    number: int,
    now_ms: int,
    earlier: Iterable[Round] = (),
) -> Round:
    """Return round ``number``, opened now.

    Args:
        task: the task.
        progress: where it stands.
        previous: the record of round ``progress.round``, None if that is 0.
        consortium: its committee and threshold hold for the round.
        keys: the opening keys that are registered.
        enrolments: of this task, the referees' among them.
        number: of the round to open.
        now_ms: the transaction's time.
        earlier: the rounds of the last published versions, as many as an adaptive bound looks back.

    Raises:
        ProtocolError: BFL105 (not its turn), BFL108 (all rounds were had), BFL122 (the task was ended), BFL107 (the
            previous is still open or waits for its model), BFL109 (too few enrolled), BFL110 (too few opening keys).
    """
    spec, enrolments = task.spec, list(enrolments)
    _check_turn(spec, progress, previous, number)
    referee = choose_referee(spec.referee, enrolments, number)
    chosen, resting = _choose(spec, enrolments, SelectionSeed(spec.task, number, progress.model_digest))
    participants, committee = _list_participants(spec, chosen), _list_recipients(consortium, keys)
    bound_l2_micro = choose_bound(spec, [one.norms.typical_l2_micro for one in earlier if one.norms])
    bounds = _compute_bounds(spec, participants, bound_l2_micro)
    return Round(
        task=spec.task,
        round=number,
        state="open",
        failure="",
        base_version=progress.version,
        base_digest=progress.model_digest,
        committee=committee,
        threshold=consortium.threshold,
        participants=participants,
        resting=resting,
        scale=bounds.scale,
        bound_l2_squared=str(bounds.l2_squared),
        bound_linf=bounds.linf,
        norms=freeze_norms(
            spec, bound_l2_micro, scale=bounds.scale, has_last_sum=progress.version > 0, has_referee=referee is not None
        ),
        statistics=freeze_statistics(spec),
        referee=referee,
        effect=freeze_effect(spec.effect, consortium.committee),
        **_start_clock(spec.deadlines, now_ms),
        **_NOT_CLOSED,
    )


def _compute_bounds(spec: TaskSpec, participants: Sequence[Participant], bound_l2_micro: int) -> Bounds:
    weight_max = max(one.weight for one in participants)
    dimension, encoding = spec.manifest.trained, ENCODINGS[spec.encoding]
    return compute_bounds(bound_l2_micro, weight_max=weight_max, dimension=dimension, encoding=encoding)


class _Clock(TypedDict):
    opened_at_ms: int
    submit_deadline_ms: int
    judge_deadline_ms: int
    publish_deadline_ms: int


def _start_clock(deadlines: Deadlines, now_ms: int) -> _Clock:
    submit_ms = now_ms + 1000 * deadlines.submit_s
    judge_ms = submit_ms + 1000 * deadlines.judge_s
    return _Clock(
        opened_at_ms=now_ms,
        submit_deadline_ms=submit_ms,
        judge_deadline_ms=judge_ms,
        publish_deadline_ms=judge_ms + 1000 * deadlines.publish_s,
    )


class _Closing(TypedDict):
    closed_at_ms: int
    accepted: Organisations
    rejected: Organisations
    unjudged: Organisations
    absent: Organisations
    divisor: int


_NOT_CLOSED: Final = _Closing(closed_at_ms=0, accepted=(), rejected=(), unjudged=(), absent=(), divisor=0)


def _choose(
    spec: TaskSpec, enrolments: Iterable[Enrolment], place: SelectionSeed
) -> tuple[dict[str, Enrolment], Organisations]:
    """Return the enrolments of those who take part in a round that opens now, and who else may take part, ascending."""
    enrolled = {one.organisation: one for one in enrolments if one.organisation in spec.institutions}
    if len(enrolled) < spec.minimum_accepted:
        raise ProtocolError(
            Code.TOO_FEW_ENROLLED,
            f"task {spec.task} needs {spec.minimum_accepted} enrolled institutions, {len(enrolled)} are: "
            f"waiting for {', '.join(sorted(set(spec.institutions) - set(enrolled)))}",
        )
    chosen = choose_participants(spec.selection, enrolled, spec.minimum_accepted, place)
    return {one: enrolled[one] for one in chosen}, tuple(sorted(set(enrolled) - set(chosen)))


def _list_participants(spec: TaskSpec, enrolled: Mapping[str, Enrolment]) -> tuple[Participant, ...]:
    """Return these as participants with their weights, ascending."""
    samples = {organisation: one.samples for organisation, one in enrolled.items()}
    weights = limit_shares(
        compute_weights(samples, samples_cap=spec.samples_cap, weight_cap=spec.weight_cap), spec.weight_share_max_micro
    )
    return tuple(
        Participant(
            organisation=organisation,
            samples=samples[organisation],
            weight=weight,
            certificate_digest=enrolled[organisation].certificate_digest,
        )
        for organisation, weight in weights.items()
    )


def _list_recipients(consortium: Consortium, keys: Iterable[CommitteeKey]) -> tuple[Recipient, ...]:
    """Return those to whom the updates of a round that opens now are sealed, ascending."""
    registered = {one.organisation: one.public_key for one in keys if one.organisation in consortium.committee}
    if len(registered) < consortium.threshold:
        raise ProtocolError(
            Code.KEYS_MISSING,
            f"{consortium.threshold} committee members must have registered an opening key, {len(registered)} have: "
            f"waiting for {', '.join(sorted(set(consortium.committee) - set(registered)))}",
        )
    return tuple(Recipient(organisation=one, public_key=key) for one, key in sorted(registered.items()))


def check_accepting(round_: Round, organisation: str, now_ms: int) -> None:
    """Check that the round still takes an organisation's header and chunks: it is open, and now ≤ the submit deadline.

    Raises:
        ProtocolError: BFL104.
    """
    check_open(round_)
    deadline_ms = round_.get_submit_deadline_ms(organisation)
    if now_ms > deadline_ms:
        raise ProtocolError(
            Code.ROUND_CLOSED,
            f"round {round_.round} of {round_.task} took updates until {format_moment(deadline_ms)}, "
            f"the transaction's time is {format_moment(now_ms)}: take part in the next",
        )


def check_open(round_: Round) -> None:
    """Check that the round is open.

    Raises:
        ProtocolError: BFL104.
    """
    if round_.state != "open":
        raise ProtocolError(Code.ROUND_CLOSED, f"round {round_.round} of {round_.task} is {round_.state}")


def check_closed(round_: Round) -> None:
    """Check that the round is closed and waits for its model.

    Raises:
        ProtocolError: BFL107.
    """
    if round_.state != "closed":
        raise ProtocolError(
            Code.ROUND_NOT_CLOSED, f"round {round_.round} of {round_.task} is {round_.state}, expected closed"
        )


def close_round(
    round_: Round,
    updates: Mapping[str, Update],
    equivocators: Collection[str],
    *,
    minimum_accepted: int,
    now_ms: int,
    aggregation: AggregationRule,
    assessments: Collection[Assessment] = (),
    last_accepted: tuple[str, ...] | None = None,
) -> Round:
    """Return the round closed, or failed: too few updates, no reference that it needs, or a set too like the last one.

    Args:
        round_: the open round.
        updates: the updates that were submitted, by organisation, the referee's too.
        equivocators: organisations that signed two different headers; they are never accepted.
        minimum_accepted: of the task, never below what its rule needs.
        now_ms: the transaction's time.
        aggregation: the task's rule, which gives a closed round its divisor; a failed round has none, 0.
        assessments: what committee members say of the updates' effect.
        last_accepted: whose updates are in the last published sum, where the task wants a stable set; else None.

    Raises:
        ProtocolError: BFL104 if it is not open; BFL106 if somebody may still submit, or a submitted update is
            unjudged, or its effect not measured by everybody who should, before the deadline for it.
    """
    check_open(round_)
    names = tuple(one.organisation for one in round_.participants)
    undecided = [name for name in names if _is_undecided(name, updates, equivocators)]
    absent = [name for name in names if name not in updates and name not in equivocators]
    good = list_accepted(round_, updates, equivocators)
    referee = settle_reference(round_, updates, equivocators)
    late = absent if now_ms < round_.submit_deadline_ms else []
    if referee and is_reference_pending(round_, updates.get(referee.organisation), now_ms):
        late = [*late, referee.organisation]
    _check_ready(round_, [*undecided, *list_missing(round_, good, assessments)], late, now_ms)
    effect = settle_effect(round_, good, assessments)
    accepted = tuple(name for name in good if effect is None or name not in effect.harmful)
    weight = sum(one.weight for one in round_.participants if one.organisation in accepted)
    failure = _find_failure(accepted, minimum_accepted, referee, last_accepted)
    # A late close leaves as much time to publish as one in time.
    delay_ms = max(0, now_ms - round_.judge_deadline_ms)
    return round_.model_copy(
        update={
            "state": "failed" if failure else "closed",
            "failure": failure,
            "publish_deadline_ms": round_.publish_deadline_ms + delay_ms,
            "closed_at_ms": now_ms,
            "accepted": accepted,
            "rejected": tuple(name for name in names if name not in (*accepted, *undecided, *absent)),
            "unjudged": tuple(undecided),
            "absent": tuple(absent),
            "divisor": 0 if failure else aggregation.traits.divisor(weight),
            "norms": _with_typical(round_, updates, accepted),
            "referee": referee,
            "effect": effect,
        }
    )


def _check_ready(round_: Round, unjudged: Sequence[str], late: Sequence[str], now_ms: int) -> None:
    """Check that nobody has time left to judge an update, or to submit one."""
    waiting = [*unjudged, *late]
    if waiting and now_ms < round_.judge_deadline_ms:
        until_ms = round_.judge_deadline_ms if unjudged else round_.submit_deadline_ms
        raise ProtocolError(
            Code.ROUND_NOT_READY,
            f"round {round_.round} of {round_.task} waits for {', '.join(sorted(waiting))} until "
            f"{format_moment(until_ms)}, the transaction's time is {format_moment(now_ms)}",
        )


def _find_failure(
    accepted: Organisations, minimum_accepted: int, referee: RoundReferee | None, last_accepted: tuple[str, ...] | None
) -> str:
    """Return why a round that closes with these updates fails, empty if it does not."""
    if is_reference_missed(referee):
        return "no reference"
    if len(accepted) < minimum_accepted:
        return "too few accepted"
    return "set changed" if last_accepted is not None and is_disclosing(accepted, last_accepted) else ""


def _with_typical(round_: Round, updates: Mapping[str, Update], accepted: Collection[str]) -> RoundNorms | None:
    if round_.norms is None:
        return None
    norms = [
        (updates[one.organisation].norm_l2_squared_bits, one.weight)
        for one in round_.participants
        if one.organisation in accepted
    ]
    return round_.norms.model_copy(update={"typical_l2_micro": compute_typical(norms, round_.scale)})


def create_score(round_: Round) -> Score:
    """Return the record that the committee will write a closed round's points into."""
    check_closed(round_)
    return Score(task=round_.task, round=round_.round, state="pending", credits=(), scored_at_ms=0)


def end_task(spec: TaskSpec, progress: Progress, coordinator: str, reason: str, now_ms: int) -> Progress:
    """Return the progress of a task that ends with the round it is in; ended already, it stays as it is.

    Args:
        spec: the task's.
        progress: where it stands.
        coordinator: who ends it.
        reason: in the coordinator's words.
        now_ms: time of the transaction.

    Raises:
        ProtocolError: BFL108 if the task's last round has opened: there is nothing to end.
    """
    if progress.ended:
        return progress
    if progress.round >= spec.rounds:
        raise ProtocolError(Code.TASK_COMPLETE, f"the last round of task {spec.task}, {spec.rounds}, has opened")
    ending = Ending(organisation=coordinator, reason=reason, ended_at_ms=now_ms)
    return progress.model_copy(update={"ended": ending})


def describe_ending(progress: Progress) -> str:
    """Return who ended a task after which round, and why; empty if nobody has."""
    if not progress.ended:
        return ""
    if progress.ended.cause == "goal":
        return f"task {progress.task} has ended after round {progress.round}: {progress.ended.reason}"
    why = f": {progress.ended.reason}" if progress.ended.reason else ""
    return f"{progress.ended.organisation} has ended task {progress.task} after round {progress.round}{why}"


def _check_turn(spec: TaskSpec, progress: Progress, previous: Round | None, number: int) -> None:
    if progress.ended:
        raise ProtocolError(Code.TASK_ENDED, describe_ending(progress))
    if number > spec.rounds:
        raise ProtocolError(Code.TASK_COMPLETE, f"task {spec.task} has {spec.rounds} rounds, there is no {number}")
    if number != progress.round + 1:
        raise ProtocolError(
            Code.ROUND_ORDER, f"round {number} cannot open: {progress.round + 1} is the next of task {spec.task}"
        )
    if (previous.round if previous else 0) != progress.round:
        raise ProtocolError(Code.ROUND_UNKNOWN, f"the record of round {progress.round} of {spec.task} is missing")
    if previous and previous.state not in ("published", "failed"):
        raise ProtocolError(
            Code.ROUND_NOT_CLOSED,
            f"round {number} cannot open: round {previous.round} of {spec.task} is {previous.state}, "
            "expected published or failed",
        )


def _is_undecided(name: str, updates: Mapping[str, Update], equivocators: Collection[str]) -> bool:
    return name in updates and updates[name].state == "submitted" and name not in equivocators
