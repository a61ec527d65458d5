"""Metrics: what an institution's own evaluation of a version gives, as records of the ledger.

Times are milliseconds since 1970 as stated by the transaction; digests are lower-case hex of SHA-256.

Source: design of the protocol, ``docs/protocol.md``.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import FailFast, Field, StringConstraints, model_validator

from blockfl.protocol.canonical import Digest, MspId, Name, Natural, Positive, Record
from blockfl.protocol.records import check_ascending

MAX_METRICS: Final = 64
MetricName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_./ -]{0,63}$")]
MetricValue = Annotated[int, Field(ge=-(10**15), le=10**15)]


class Metric(Record):
    """One number of an evaluation, in millionths, and how many samples it comes from.

    ``pooling`` says how the numbers of several institutions become one: a ``mean`` over samples, the root of a mean of
    squares, or not at all, because it is of each ``institution`` alone (an AUC of all is no mean of AUCs).
    """

    name: MetricName
    pooling: Literal["mean", "root_mean_square", "institution"]
    value_micro: MetricValue
    count: Positive


class Metrics(Record):
    """An institution's own evaluation of a version. Key: ``metrics/<task>/<version>/<organisation>``.

    ``model_digest`` is the digest that the institution itself arrived at; it is confirmed with metrics or without.
    ``values`` ascend by name.
    """

    task: Name
    version: Natural
    organisation: MspId
    model_digest: Digest
    values: Annotated[tuple[Metric, ...], FailFast(), Field(max_length=MAX_METRICS)]
    reported_at_ms: Natural

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_ascending(tuple(metric.name for metric in self.values), "metrics")
        return self
