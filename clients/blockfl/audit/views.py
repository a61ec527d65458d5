"""What an auditor looks at: tasks, rounds, updates and models as rows.

A row is a plain mapping of column to value, ready for a table or for JSON. Its ``key`` is that of the record it is
about: in a verified ledger `book.Book.place` gives the transaction behind it. Times are as the submitter of the
transaction stated them, which peers accept only near their own clock.
"""

from collections.abc import Sequence
from math import isqrt
from typing import Protocol, TypeVar

from blockfl.audit.entry import Row, format_time
from blockfl.audit.metrics import pool
from blockfl.ledger.errors import LedgerError, RefusedError, is_unreadable
from blockfl.protocol.canonical import Record
from blockfl.protocol.catalogue import (
    AGGREGATE,
    ALL_PROGRESS,
    APPRAISALS,
    ASSESSMENTS,
    DISPUTES,
    MODELS,
    REPORTS,
    ROUNDS,
    TASK,
    UPDATES,
    VOTES,
    WITHDRAWALS,
    find_key,
)
from blockfl.protocol.claims import Dispute
from blockfl.protocol.effect import find_verdict
from blockfl.protocol.goal import Appraisal
from blockfl.protocol.judging import describe_verdict
from blockfl.protocol.key import Key, Range
from blockfl.protocol.norm_rules import NormRules, RoundNorms
from blockfl.protocol.records import Aggregate, Model, Progress, Round, Update
from blockfl.protocol.round import describe_ending
from blockfl.protocol.task import WEIGHT_SHARE_MAX_MICRO, TaskSpec
from blockfl.protocol.value_rules import CHOICES

R = TypeVar("R", bound=Record)


class Reader(Protocol):
    """Where records come from: a peer, or a verified ledger."""

    async def read(self, key: Key[R]) -> R:
        """Return one record; refused when there is none."""

    async def read_all(self, keys: Range[R]) -> Sequence[R]:
        """Return the records of a range, in the order of their keys."""


async def list_tasks(ledger: Reader) -> list[Row]:
    """Return a row for each task; of one whose record cannot be read, where it stands and ``error``."""
    return [await _describe_task(ledger, progress) for progress in await ledger.read_all(ALL_PROGRESS.below())]


async def _describe_task(ledger: Reader, progress: Progress) -> Row:
    row: Row = {
        "key": TASK.key(progress.task),
        "task": progress.task,
        "title": "",
        "round": progress.round,
        "rounds": None,
        "version": progress.version,
        "model_digest": progress.model_digest,
        "ended": describe_ending(progress),
        "institutions": [],
        "aggregator": None,
        "strategy": None,
        "norms": None,
        "created": None,
        "error": None,
    }
    try:
        task = await ledger.read(TASK.key(progress.task))
    except LedgerError as error:
        if not is_unreadable(error):
            raise
        return row | {"title": f"cannot be read: {error}", "error": str(error)}
    return row | {
        "title": task.spec.title,
        "rounds": task.spec.rounds,
        "institutions": list(task.spec.institutions),
        "aggregator": task.spec.aggregator,
        "strategy": describe_strategy(task.spec),
        "norms": describe_norms(task.spec.norms),
        "created": format_time(task.created_at_ms),
    }


def describe_strategy(spec: TaskSpec) -> str:
    """Return a task's rule, who checks it, and its optimiser: ``trimmed_mean (trim 2), recompute, yogi (…)``."""
    parts = [_describe(spec.aggregation.rule, spec.aggregation.model_dump(exclude={"rule"})), spec.check]
    if spec.optimiser:
        parts.append(_describe(spec.optimiser.method, spec.optimiser.model_dump(exclude={"method"})))
    if spec.referee:
        parts.append(f"referee {' and '.join(spec.referees)} or {spec.referee.if_absent.replace('_', ' ')}")
    if spec.effect:
        parts.append(
            f"loss on the rows of {' and '.join(spec.assessors)}, {spec.effect.tolerance_micro / 10**6:g} more"
        )
    if spec.weight_share_max_micro != WEIGHT_SHARE_MAX_MICRO:
        parts.append(f"weights up to {spec.weight_share_max_micro / 10**6:g} of their sum")
    if spec.stable_set:
        parts.append("stable set")
    if spec.personal:
        parts.append(f"personal {' '.join(spec.personal)}")
    if spec.evaluators:
        parts.append(f"held out {' and '.join(spec.evaluators)}")
    if spec.selection:
        size = spec.selection
        share = f"{(size.share_micro or 0) / 10**4:g}%" if size.count is None else str(size.count)
        parts.append(f"{share} of the institutions in a round")
    if spec.goal:
        stops = f", patience {spec.goal.patience}" if spec.goal.patience else ""
        parts.append(f"best by {spec.goal.metric} ({spec.goal.better}{stops})")
    return ", ".join(parts)


def _describe(name: str, parameters: dict[str, int]) -> str:
    texts = [
        f"{key.removesuffix('_micro')} {value / 10**6:g}" if key.endswith("_micro") else f"{key} {value}"
        for key, value in parameters.items()
    ]
    return f"{name} ({', '.join(texts)})" if texts else name


def describe_norms(rules: NormRules | None) -> str:
    """Return a task's further norm rules in words, empty when it has none."""
    if rules is None:
        return ""
    parts = []
    if rules.tensors:
        parts.append(f"{len(rules.tensors)} tensors bounded")
    chosen = [(one, getattr(rules, one.field)) for one in CHOICES]
    parts += [f"{one.words} {value / 10**6:g}" for one, value in chosen if value != one.off]
    if rules.adaptive:
        adaptive = rules.adaptive
        parts.append(
            f"bound {adaptive.factor_permille / 1000:g} times the norms of the last {adaptive.rounds} rounds, at least "
            f"{adaptive.floor_l2_micro / 10**6:g}"
        )
    return ", ".join(parts)


async def list_withdrawals(ledger: Reader) -> list[Row]:
    """Return a row for each certificate that its organisation withdrew."""
    return [
        {
            "key": find_key(one),
            "organisation": one.organisation,
            "certificate_digest": one.certificate_digest,
            "withdrawn": format_time(one.withdrawn_at_ms),
        }
        for one in await ledger.read_all(WITHDRAWALS.below())
    ]


async def list_rounds(ledger: Reader, task: str) -> list[Row]:
    """Return a row for each round: state, who was accepted, who voted for its model and who for another, seconds per
    step as the ledger's times give them.
    """
    rows: list[Row] = []
    models = {model.round: model for model in await ledger.read_all(MODELS.below(task)) if model.version}
    for round_ in await ledger.read_all(ROUNDS.below(task)):
        updates = await ledger.read_all(UPDATES.below(task, round_.round))
        aggregate, model = await _find_aggregate(ledger, round_), models.get(round_.round)
        votes = await ledger.read_all(VOTES.below(task, round_.round))
        disputes = await ledger.read_all(DISPUTES.below(task, round_.round))
        rows.append(
            {
                "key": find_key(round_),
                "round": round_.round,
                "state": round_.state,
                "base_version": round_.base_version,
                "accepted": list(round_.accepted),
                "rejected": [
                    {"organisation": update.organisation, "code": update.code}
                    for update in (find_verdict(round_, one) for one in updates)
                    if update.state == "rejected"
                ],
                "unjudged": list(round_.unjudged),
                "absent": list(round_.absent),
                "resting": list(round_.resting),
                "referee": f"{referee.organisation} {referee.reference}".rstrip()
                if (referee := round_.referee)
                else "",
                "norms": _norms(round_),
                "claims": [_describe_dispute(one) for one in disputes],
                "false_claims": sorted({one.member for one in disputes if one.state == "refuted"}),
                "failure": round_.failure,
                "summed_by": aggregate.summed_by if aggregate else None,
                "votes": {vote.organisation: vote.digest for vote in votes},
                "voted": [one.organisation for one in votes if model is None or one.digest == model.digest],
                "outvoted": [one.organisation for one in votes if model and one.digest != model.digest],
                "opened": format_time(round_.opened_at_ms),
                "seconds": _seconds(round_, list(updates), aggregate, model),
            }
        )
    return rows


async def list_updates(ledger: Reader, task: str, number: int | None) -> list[Row]:
    """Return a row for each update of a round, or of every round."""
    rounds = [one for one in await ledger.read_all(ROUNDS.below(task)) if number in (None, 0, one.round)]
    rows: list[Row] = []
    for round_ in rounds:
        disputes = await ledger.read_all(DISPUTES.below(task, round_.round))
        assessments = await ledger.read_all(ASSESSMENTS.below(task, round_.round)) if round_.effect else ()
        for update in await ledger.read_all(UPDATES.below(task, round_.round)):
            rises = {one.member: one.rise_micro for one in assessments if one.organisation == update.organisation}
            claims = [f"{item.member}: {item.state}" for item in disputes if item.organisation == update.organisation]
            row = _update_row(find_verdict(round_, update)) | describe_norm(round_, update)
            rows.append(row | {"rises_micro": rises, "disputes": claims})
    return rows


def describe_norm(round_: Round, update: Update) -> Row:
    """Return between which L2 norms an update's is, in the model's own weights: the exact one is on no record."""
    part, bits = round_.participant(update.organisation), update.norm_l2_squared_bits
    if part is None or not bits:
        return {"norm": "", "norm_at_least": None, "norm_at_most": None}
    unit = part.weight * 2.0**round_.scale
    least, most = isqrt(2 ** (bits - 1)) / unit, isqrt(2**bits) / unit
    return {"norm": f"{least:.2g} to {most:.2g}", "norm_at_least": least, "norm_at_most": most}


async def list_models(ledger: Reader, task: str) -> list[Row]:
    """Return a row for each version, with what the institutions reported of it."""
    rows: list[Row] = []
    evaluators = await _find_evaluators(ledger, task)
    appraisals = {one.version: one for one in await ledger.read_all(APPRAISALS.below(task))}
    for model in await ledger.read_all(MODELS.below(task)):
        reports = await ledger.read_all(REPORTS.below(task, model.version))
        pooled = pool([one for one in reports if one.organisation not in evaluators])
        rows.append(
            {
                "key": find_key(model),
                "version": model.version,
                "round": model.round,
                "digest": model.digest,
                "accepted": list(model.accepted),
                "summed_by": model.summed_by,
                "voters": list(model.voters),
                "published": format_time(model.published_at_ms),
                "accuracy": pooled.get("accuracy", {}).get("value"),
                "metrics": pooled,
                "held_out": pool([one for one in reports if one.organisation in evaluators]),
                "appraisal": _describe_appraisal(appraisals.get(model.version)),
                "confirmed_by": [report.organisation for report in reports if report.model_digest == model.digest],
                "contested_by": [report.organisation for report in reports if report.model_digest != model.digest],
                "reports": {
                    report.organisation: {
                        "digest": report.model_digest,
                        "samples": max((metric.count for metric in report.values), default=0),
                        **{metric.name: metric.value_micro / 1e6 for metric in report.values},
                    }
                    for report in reports
                },
            }
        )
    return rows


async def _find_evaluators(ledger: Reader, task: str) -> Sequence[str]:
    """Return who evaluates a task's versions and trains none; nobody where the task's record cannot be read."""
    try:
        return (await ledger.read(TASK.key(task))).spec.evaluators
    except LedgerError as error:
        if not is_unreadable(error):
            raise
        return ()


def _describe_appraisal(appraisal: Appraisal | None) -> Row | None:
    """Return what a version is worth by its task's goal; None without one, or before."""
    if appraisal is None:
        return None
    return {
        "value": None if appraisal.value_micro is None else appraisal.value_micro / 10**6,
        "counted": list(appraisal.counted),
        "best_version": appraisal.best_version,
        "without_improvement": appraisal.without,
    }


def describe_metrics(metrics: object) -> list[str]:
    """Return pooled metrics in words; one that is of each institution alone is told with its range."""
    texts = []
    for name, one in (metrics if isinstance(metrics, dict) else {}).items():
        text = f"{name} {one['value']:.4f} ({one['institutions']} institutions"
        if one["pooling"] == "institution":
            text += f", {one['lowest']:.4f} to {one['highest']:.4f}"
        texts.append(f"{text})")
    return texts


def _norms(round_: Round) -> dict[str, float | None]:
    """Return what a round froze of its task's norm rules, in the model's own units; empty when it has none."""
    norms = round_.norms
    if norms is None:
        return {}
    unit = 2.0**round_.scale
    chosen = {one.field: getattr(norms, one.field) for one in CHOICES if one.field in RoundNorms.model_fields}
    return {
        "bound": norms.bound_l2_micro / 10**6,
        "minimum": isqrt(int(norms.minimum_l2_squared)) / unit,
        **{field.removesuffix("_micro"): None if micro is None else micro / 10**6 for field, micro in chosen.items()},
        "typical": norms.typical_l2_micro / 10**6 if norms.typical_l2_micro else None,
    } | {f"bound of {one.tensor}": isqrt(int(one.l2_squared)) / unit for one in norms.tensors}


def _describe_dispute(dispute: Dispute) -> str:
    return f"{dispute.member} about {dispute.organisation}: {dispute.state}"


def _update_row(update: Update) -> Row:
    return {
        "key": find_key(update),
        "round": update.round,
        "organisation": update.organisation,
        "state": update.state,
        "code": update.code,
        "reason": describe_verdict(update) if update.code else "",
        "norm_l2_squared_bits": update.norm_l2_squared_bits,
        "norm_linf_bits": update.norm_linf_bits,
        "submitted": format_time(update.submitted_at_ms),
        "judged": format_time(update.judged_at_ms),
        "header_digest": update.header_digest,
    }


async def _find_aggregate(ledger: Reader, round_: Round) -> Aggregate | None:
    if round_.state == "open" or round_.has_failed_closing:
        return None
    try:
        return await ledger.read(AGGREGATE.key(round_.task, round_.round))
    except RefusedError:
        return None


def _seconds(
    round_: Round, updates: list[Update], aggregate: Aggregate | None, model: Model | None
) -> dict[str, float]:
    """Return how long each step took: training and submitting, judging, closing, summing, publishing."""
    marks = {
        "submit": max((update.submitted_at_ms for update in updates), default=0),
        "judge": max((update.judged_at_ms for update in updates), default=0),
        "close": round_.closed_at_ms,
        "sum": aggregate.attested_at_ms if aggregate else 0,
        "publish": model.published_at_ms if model else 0,
    }
    seconds: dict[str, float] = {}
    before = round_.opened_at_ms
    for step, at_ms in marks.items():
        if at_ms:
            seconds[step] = max(0, at_ms - before) / 1000
            before = max(before, at_ms)
    return seconds
