"""How versions are compared by a task's goal: the best one, and when the task stops because nothing gets better.

Institutions report metrics of each version. Once the reports that are awaited are in, or the time for them is over, a
committee member has the contract appraise the version: what counts is what is on the ledger then, and later reports
change nothing. A version's value is a weighted median, so that no single institution moves it beyond what the others
report. Rules only, in integers; the contract reads and writes.

    check_reports(spec, model, round_, reports, now_ms)
    appraisal = appraise(spec, model, reports, enrolments, previous, now_ms)
    progress = end_by_goal(spec, progress, appraisal, organisation, now_ms)

Source: ``docs/protocol.md``, goals.
"""

from collections.abc import Collection, Iterable
from itertools import accumulate
from typing import Final

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.disclosure import limit_shares
from blockfl.protocol.goal import Appraisal, Goal
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.moment import format_moment
from blockfl.protocol.norm_rules import MICRO, describe_micro
from blockfl.protocol.records import Ending, Enrolment, Model, Organisations, Progress, Round
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.terms import compute_weights

_UNDER_HALF_MICRO: Final = MICRO // 2 - 1


def require_goal(spec: TaskSpec) -> Goal:
    """Return the task's goal.

    Raises:
        ProtocolError: BFL125 if it has none.
    """
    if spec.goal is None:
        raise ProtocolError(Code.NO_GOAL, f"task {spec.task} compares no versions: it was made without --best")
    return spec.goal


def list_awaited(round_: Round, version: int) -> Organisations:
    """Return whose reports on a version are awaited, ascending: of those that were there, and those that rested.

    Args:
        round_: The round that made the version; of version 0, the task's first.
        version: The version's number.
    """
    there = round_.accepted if version else tuple(one.organisation for one in round_.participants)
    return tuple(sorted((*there, *round_.resting)))


def compute_report_deadline(goal: Goal, model: Model, round_: Round) -> int:
    """Return until when the reports on a version are awaited, in ms; of version 0 from the first round's opening."""
    return (model.published_at_ms if model.version else round_.opened_at_ms) + 1000 * goal.report_s


def check_reports(goal: Goal, model: Model, round_: Round, reports: Collection[Metrics], now_ms: int) -> None:
    """Check that a version may be appraised: the awaited reports are in, or the time for them is over.

    Args:
        goal: Of the task.
        model: The version's record.
        round_: As in ``list_awaited``.
        reports: On the version.
        now_ms: The transaction's time.

    Raises:
        ProtocolError: BFL123.
    """
    told = {one.organisation for one in reports}
    missing = [one for one in list_awaited(round_, model.version) if one not in told]
    deadline_ms = compute_report_deadline(goal, model, round_)
    if missing and now_ms <= deadline_ms:
        raise ProtocolError(
            Code.REPORTS_PENDING,
            f"version {model.version} of {model.task} waits for the reports of {', '.join(missing)} until "
            f"{format_moment(deadline_ms)}, the transaction's time is {format_moment(now_ms)}",
        )


def check_appraised(spec: TaskSpec, progress: Progress, appraisal: Appraisal | None) -> None:
    """Check that the version that a round starts from is appraised: the task might end instead.

    Raises:
        ProtocolError: BFL123.
    """
    if spec.goal and progress.round and appraisal is None:
        raise ProtocolError(
            Code.REPORTS_PENDING,
            f"version {progress.version} of {spec.task} is not appraised yet, and the task may end with it: "
            "have it appraised first",
        )


def appraise(
    spec: TaskSpec,
    model: Model,
    reports: Iterable[Metrics],
    enrolments: Iterable[Enrolment],
    previous: Appraisal | None,
    now_ms: int,
) -> Appraisal:
    """Return what a version is worth.

    Args:
        spec: The task's, with a goal.
        model: The version's record.
        reports: On the version; those that arrived at another digest, or lack the metric, do not count.
        enrolments: Of the institutions; those that are not enrolled do not count.
        previous: The appraisal of the version before, None of version 0.
        now_ms: The transaction's time.
    """
    goal = require_goal(spec)
    samples = {one.organisation: one.samples for one in enrolments if one.organisation in spec.institutions}
    values = {
        report.organisation: metric.value_micro
        for report in reports
        if report.organisation in samples and report.model_digest == model.digest
        for metric in report.values
        if metric.name == goal.metric
    }
    best, best_micro, mark, without = None, None, None, 0
    if previous:
        best, best_micro = previous.best_version, previous.best_micro
        mark, without = previous.mark_micro, previous.without
    value = None
    if len(values) >= spec.minimum_accepted:
        weights = compute_weights(
            {one: samples[one] for one in values}, samples_cap=spec.samples_cap, weight_cap=spec.weight_cap
        )
        value = choose_median(goal, values, weights)
        if goal.is_better(value, best_micro):
            best, best_micro = model.version, value
        is_improved = goal.is_better(value, mark, goal.min_delta_micro)
        mark, without = (value, 0) if is_improved else (mark, without + 1)
    return Appraisal(
        task=spec.task,
        version=model.version,
        value_micro=value,
        counted=tuple(sorted(values)),
        best_version=best,
        best_micro=best_micro,
        mark_micro=mark,
        without=without,
        appraised_at_ms=now_ms,
    )


def choose_median(goal: Goal, values: dict[str, int], weights: dict[str, int]) -> int:
    """Return the value that institutions with half of the weights reach or exceed; the worse one where two do.

    Args:
        goal: Says what is better.
        values: By institution, three or more.
        weights: By institution. Each is cut to under half of their sum, so that no institution decides alone.
    """
    cut = limit_shares(weights, _UNDER_HALF_MICRO)
    names = sorted(values, key=lambda name: values[name], reverse=goal.better == "max")
    reached = accumulate(cut[name] for name in names)
    return next(values[name] for name, sum_ in zip(names, reached, strict=True) if 2 * sum_ > sum(cut.values()))


def end_by_goal(
    spec: TaskSpec, progress: Progress, appraisal: Appraisal, organisation: str, now_ms: int
) -> Progress | None:
    """Return the progress of a task that ends because nothing gets better, None if it goes on or is over anyhow.

    Args:
        spec: The task's.
        progress: Where it stands.
        appraisal: Of its last version.
        organisation: Whose transaction it is.
        now_ms: The transaction's time.
    """
    goal = require_goal(spec)
    is_over = progress.ended is not None or progress.round >= spec.rounds
    if is_over or not goal.patience or appraisal.without < goal.patience:
        return None
    least = describe_micro(goal.min_delta_micro)
    reason = (
        f"{goal.metric} has not become better by more than {least} in {appraisal.without} versions; "
        f"version {appraisal.best_version} is the best"
    )
    ending = Ending(organisation=organisation, reason=reason, ended_at_ms=now_ms, cause="goal")
    return progress.model_copy(update={"ended": ending})
