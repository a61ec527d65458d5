"""What each institution would reach by itself: the same model, rows and seeds, for as many epochs, and nobody else.

    alone = train_alone(spec, initial_model, "cleveland", sites, rounds=12, seed=1)
    alone.own, alone.everywhere         # metrics on cleveland's test samples, and on each institution's

Nothing is rounded, shortened, judged or averaged: the institution goes on from its own values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from blockfl.institution.errors import TrainingError, WorkloadError
from blockfl.institution.round_training import check_loss, make_request
from blockfl.institution.vector import Vector
from blockfl.institution.version import list_metrics
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.version import decode_version
from blockfl.simulation.simulation import Site


@dataclass(frozen=True, kw_only=True)
class Alone:
    """One institution by itself, after its last round.

    Attributes:
        institution: Which.
        own: The metrics on its own test samples; None if it could not train.
        everywhere: Those on each institution's test samples; () where models have personal layers.
        failure: Why it could not train, empty if it could.
    """

    institution: str
    own: Metrics | None = None
    everywhere: tuple[Metrics, ...] = ()
    failure: str = ""


def train_alone(
    spec: TaskSpec,
    initial_model: bytes,
    name: str,
    sites: Mapping[str, Site],
    *,
    rounds: int,
    seed: int | None,
    report: Callable[[str], None] = lambda _: None,
) -> Alone:
    """Train one institution by itself, and evaluate what it makes.

    Args:
        spec: The task.
        initial_model: Version 0's file.
        name: The institution.
        sites: By institution, as they were before any training.
        rounds: How many; each has the epochs that the task's plan gives it.
        seed: Of the institution's training; None: not repeatable.
        report: Told what happens.
    """
    values = decode_version(spec, initial_model).model
    report(f"{name} alone: {rounds} rounds of training")
    try:
        for number in range(1, rounds + 1):
            trained, values = sites[name].train(values, make_request(spec, number, seed), lambda _: None)
            check_loss(trained)
    except (WorkloadError, TrainingError, ProtocolError) as error:
        return Alone(institution=name, failure=str(error))
    names = (name,) if spec.personal else spec.institutions
    found = {one: _evaluate(spec, sites[one], one, values) for one in names}
    return Alone(institution=name, own=found[name], everywhere=() if spec.personal else tuple(found.values()))


def _evaluate(spec: TaskSpec, site: Site, name: str, values: Vector) -> Metrics:
    return Metrics(
        task=spec.task,
        version=0,
        organisation=name,
        model_digest=compute_digest(values.tobytes()),
        values=list_metrics(site.evaluate(values)),
        reported_at_ms=0,
    )
