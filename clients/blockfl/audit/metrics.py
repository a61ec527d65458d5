"""What the institutions' own evaluations of a version are together.

Means over samples and root mean squares are pooled exactly. Anything else (an AUC, an F1) is of each institution alone:
its mean over the institutions, weighted by their samples, is told as that, with the lowest and the highest.
"""

from collections.abc import Sequence
from math import fsum, sqrt

from blockfl.protocol.metrics import Metric, Metrics

_LOWER = ("loss", "error", "mae", "mse", "rmse", "mape", "msle")


def pool(reports: Sequence[Metrics]) -> dict[str, dict[str, object]]:
    """Return each metric by name: value, how it was pooled, samples, number of institutions, lowest, highest.

    An institution that does not report a metric is not in it: compare ``institutions`` with the number of reports.
    """
    found: dict[tuple[str, str], list[Metric]] = {}
    for report in reports:
        for metric in report.values:
            found.setdefault((metric.name, metric.pooling), []).append(metric)
    return {
        name: {
            "value": round(_combine(pooling, metrics), 6),
            "pooling": pooling,
            "samples": sum(metric.count for metric in metrics),
            "institutions": len(metrics),
            "lowest": min(metric.value_micro for metric in metrics) / 1e6,
            "highest": max(metric.value_micro for metric in metrics) / 1e6,
        }
        for (name, pooling), metrics in sorted(found.items())
    }


def is_lower_better(name: str) -> bool:
    """Return whether less of a metric is better, as its name says."""
    words = name.lower().replace("/", "_").split("_")
    return any(word in _LOWER for word in words)


def _combine(pooling: str, metrics: Sequence[Metric]) -> float:
    samples = sum(metric.count for metric in metrics)
    power = 2 if pooling == "root_mean_square" else 1
    mean = fsum((metric.value_micro / 1e6) ** power * metric.count for metric in metrics) / samples
    return sqrt(mean) if power == 2 else mean
