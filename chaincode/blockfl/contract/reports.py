"""What an institution reports of a version: with its next header, or in a transaction of its own."""

from blockfl.contract.authority import require_reporter
from blockfl.contract.state import State
from blockfl.protocol.catalogue import CONSORTIUM, METRICS, MODEL, ROUND, TASK
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import Header


async def report_metrics(state: State, metrics: Metrics) -> bytes:
    """Record an institution's own evaluation of a version; the first report stands."""
    _check_own(state, metrics)
    spec = (await state.read(TASK.key(metrics.task))).spec
    require_reporter(await state.read(CONSORTIUM.key()), spec, state.caller)
    model = await state.read(MODEL.key(metrics.task, metrics.version))
    return (await _record(state, metrics, model.round)).encode()


async def report_with_header(state: State, header: Header, metrics: Metrics) -> None:
    """Record what an institution says of its round's base model; who may submit the header may report."""
    _check_own(state, metrics)
    round_ = await state.read(ROUND.key(header.task, header.round))
    if (metrics.task, metrics.version) != (header.task, round_.base_version):
        raise ProtocolError(
            Code.MALFORMED,
            f"expected metrics of the round's base model, version {round_.base_version} of {header.task}, "
            f"got version {metrics.version} of {metrics.task}",
        )
    await _record(state, metrics, header.round)


async def _record(state: State, metrics: Metrics, number: int) -> Metrics:
    """Write a report unless it is there."""
    earlier = await state.find(METRICS.key(metrics.task, metrics.version, state.caller))
    if earlier and earlier.model_copy(update={"reported_at_ms": 0}) != metrics:
        raise ProtocolError(
            Code.ALREADY_SETTLED,
            f"{state.caller} has reported other metrics of version {metrics.version} of {metrics.task}",
        )
    if earlier:
        return earlier
    record = metrics.model_copy(update={"reported_at_ms": state.now_ms})
    await state.write(record)
    state.announce(
        "MetricsReported",
        task=metrics.task,
        number=number,
        organisation=state.caller,
        detail=str(metrics.version),
    )
    return record


def _check_own(state: State, metrics: Metrics) -> None:
    if metrics.organisation != state.caller:
        raise ProtocolError(
            Code.CREATOR_MISMATCH, f"the report is of {metrics.organisation}, the transaction of {state.caller}"
        )
    require_unset("reported_at_ms", metrics.reported_at_ms)


def require_unset(field: str, time_ms: int) -> None:
    """Check that a caller leaves a time to the contract.

    Raises:
        ProtocolError: BFL301.
    """
    if time_ms:
        raise ProtocolError(Code.MALFORMED, f"expected {field} 0, the contract sets it; got {time_ms}")
