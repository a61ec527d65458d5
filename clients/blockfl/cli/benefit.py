"""Whether institutions are better off together than each alone: what ``blockfl simulate --alone`` tells."""

from collections.abc import Sequence

from blockfl.audit.metrics import is_lower_better
from blockfl.simulation.worker import AloneDone, RoundDone

COLUMNS = ("institution", "metric", "alone", "together", "alone, all samples", "together, all samples")
_NONE = "–"


def list_benefits(alone: Sequence[AloneDone], together: RoundDone) -> list[dict[str, object]]:
    """Return a row for each institution and metric, of its own test samples and of all institutions'.

    Args:
        alone: What each institution reached by itself.
        together: The version that all made.
    """
    rows: list[dict[str, object]] = []
    shared = {one.name: one for one in together.metrics}
    for done in alone:
        everywhere = {one.name: one.value for one in done.everywhere}
        for name, value in done.own.items():
            if name not in shared or done.institution not in shared[name].by_institution:
                continue
            values = (
                value,
                shared[name].by_institution[done.institution],
                everywhere.get(name),
                shared[name].value if name in everywhere else None,
            )
            told = (_NONE if one is None else f"{one:.4f}" for one in values)
            rows.append(dict(zip(COLUMNS, (done.institution, name, *told), strict=True)))
    return rows


def describe_benefits(alone: Sequence[AloneDone], together: RoundDone) -> list[str]:
    """Return a sentence for each metric, and one for each institution that could not train by itself."""
    lines = [f"{done.institution} could not train alone: {done.failure}" for done in alone if done.failure]
    for metric in together.metrics:
        pairs = [
            (done.institution, done.own[metric.name], metric.by_institution[done.institution])
            for done in alone
            if metric.name in done.own and done.institution in metric.by_institution
        ]
        if not pairs:
            continue
        sign = -1 if is_lower_better(metric.name) else 1
        better = [name for name, own, shared in pairs if sign * shared > sign * own]
        worse = [name for name, own, shared in pairs if sign * shared < sign * own]
        text = f"{metric.name} on their own test samples: {len(better)} of {len(pairs)} are better off together"
        if worse:
            text += f"; {', '.join(worse)} {'is' if len(worse) == 1 else 'are'} better off alone"
        lines.append(text)
    return lines
