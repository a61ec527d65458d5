"""What a task may go by, and what the contract records of each version by it; the rules are in ``appraising``.

Source: ``docs/protocol.md``, goals.
"""

from typing import Annotated, Literal

from pydantic import Field

from blockfl.protocol.canonical import Name, Natural, Record
from blockfl.protocol.metrics import MetricName, MetricValue
from blockfl.protocol.records import Organisations


class Goal(Record):
    """The metric by which versions are compared, and when the task stops.

    ``patience`` is how many appraised versions in a row may be no improvement before the task ends, 0: any number. An
    improvement is by more than ``min_delta_micro``. ``report_s`` is how long the reports on a version are awaited.
    """

    metric: MetricName
    better: Literal["max", "min"]
    patience: Annotated[int, Field(ge=0, le=100_000)]
    min_delta_micro: Annotated[int, Field(ge=0, le=10**15)]
    report_s: Annotated[int, Field(ge=1, le=30 * 24 * 3600)]

    def is_better(self, value: int, than: int | None, by_micro: int = 0) -> bool:
        """Whether a value is better than another, which may not be there, by more than so much."""
        return than is None or (value - than if self.better == "max" else than - value) > by_micro


class Appraisal(Record):
    """What a version is worth by its task's goal. Key: ``appraisal/<task>/<version>``; never changed.

    ``value_micro`` is the weighted median of what the institutions ``counted`` reported, None where they are fewer than
    ``minimum_accepted``. ``best_version`` is the best so far, None without any. ``mark_micro`` is what a value is
    compared with to be an improvement, and ``without`` how many appraised versions in a row were none.
    """

    task: Name
    version: Natural
    value_micro: MetricValue | None
    counted: Organisations
    best_version: Natural | None
    best_micro: MetricValue | None
    mark_micro: MetricValue | None
    without: Natural
    appraised_at_ms: Natural
