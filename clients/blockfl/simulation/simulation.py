"""A task's rounds, simulated: the agent's training and rounding, the contract's rules, the model's formula; no ledger.

Weights, bounds, verdicts, the sum, the optimiser and every version are what the network would make of the same models,
rows and seeds, bit for bit. There is no sealing, signature, commitment or credit in it, and nobody is late.

    for result in simulate(spec, initial_model, sites, seed=1):
        print(result.version, result.digest, result.pooled)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from blockfl.audit.metrics import pool
from blockfl.institution.encoder import BoundedEncoder
from blockfl.institution.errors import TrainingError, WorkloadError
from blockfl.institution.frames import Evaluated, Train, Trained, TrainingProgress
from blockfl.institution.precheck import explain_refusal
from blockfl.institution.round_training import check_loss, encode_trained, make_request
from blockfl.institution.vector import Vector
from blockfl.institution.version import list_metrics
from blockfl.protocol.aggregation import combine, drive
from blockfl.protocol.appraising import appraise, end_by_goal
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.goal import Appraisal
from blockfl.protocol.judging import Judgement
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.norms import Integers
from blockfl.protocol.payload import Values
from blockfl.protocol.quantise import measure_length
from blockfl.protocol.records import (
    CommitteeKey,
    Consortium,
    Enrolment,
    Member,
    Model,
    Organisations,
    Participant,
    Role,
    Round,
    Update,
)
from blockfl.protocol.round import close_round, create_task, describe_ending, open_round
from blockfl.protocol.rule import find_breach
from blockfl.protocol.statistics import measure_change
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.training import plan_training
from blockfl.protocol.value_rules import VALUE_RULES, Candidate
from blockfl.protocol.version import apply_round, decode_version, encode_version

_COMMITTEE: Final = ("simulated-coordinator", "simulated-member")
_NO_DIGEST: Final = "0" * 64
_NO_KEY: Final = "1" * 64
_NO_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----\nnone\n-----END CERTIFICATE-----\n"


class Site(Protocol):
    """One institution's model and samples (``blockfl.institution.learner.Learner`` is one)."""

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Train from the base values, shape (d,); return the outcome and the new values, shape (d,)."""

    def evaluate(self, values: Vector) -> Evaluated:
        """Evaluate values, shape (d,), on the institution's test samples."""


@dataclass(frozen=True, kw_only=True)
class SiteOutcome:
    """What one institution brought in a round.

    Attributes:
        state: ``accepted``, ``rejected``, or ``nothing`` when the agent would have sent nothing.
        told: What the agent would tell: what was shortened, or why nothing was sent.
        norm: L2 norm of the change of the trained weights before it was shortened, in weights; None without one.
        loss: Of training, on the last epoch; None if there is none.
    """

    state: str
    told: tuple[str, ...] = ()
    norm: float | None = None
    loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """A round, and the version after it; version 0 has round 0 and no outcome.

    Attributes:
        number: Of the round.
        version: The version that holds after the round; the one before when the round failed.
        content: The version's model file, canonical safetensors.
        failure: Empty, or why the round made no version.
        outcomes: By institution.
        metrics: The version's, by institution.
        held_out: The version's, by site that evaluates and never trains.
        appraisal: What the version is worth by the task's goal; None without one, or when the round failed.
        ending: Why the task ends with this round before its last, empty if it does not.
    """

    number: int
    version: int
    content: bytes
    failure: str = ""
    outcomes: Mapping[str, SiteOutcome] = field(default_factory=dict)
    metrics: tuple[Metrics, ...] = ()
    held_out: tuple[Metrics, ...] = ()
    appraisal: Appraisal | None = None
    ending: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, as the ledger has it."""
        return compute_digest(self.content)

    @property
    def pooled(self) -> Mapping[str, dict[str, Any]]:
        """Each metric over the institutions (``blockfl.audit.metrics.pool``)."""
        return pool(self.metrics)


def simulate(
    spec: TaskSpec,
    initial_model: bytes,
    sites: Mapping[str, Site],
    samples: Mapping[str, int],
    *,
    seeds: Mapping[str, int] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Iterator[Result]:
    """Yield version 0 and then each round's result.

    Args:
        spec: The task; its institutions and evaluators are the sites.
        initial_model: Version 0's file, whose digest the specification names.
        sites: By institution.
        samples: What each institution declares; an evaluator nothing.
        seeds: Of each institution's training and rounding, as ``institution run --seed``; None: not repeatable.
        report: Told what happens.

    Raises:
        ProtocolError: The sites cannot have such a task, or the initial model is not the task's.
    """
    yield from _Simulation(spec, initial_model, sites, samples, seeds, report).run()


class _Simulation:
    def __init__(
        self,
        spec: TaskSpec,
        initial_model: bytes,
        sites: Mapping[str, Site],
        samples: Mapping[str, int],
        seeds: Mapping[str, int] | None,
        report: Callable[[str], None],
    ) -> None:
        self._spec, self._sites, self._seeds, self._report = spec, sites, seeds or {}, report
        self._consortium = _make_consortium(spec)
        self._task, self._progress, self._model = create_task(spec, _COMMITTEE[0], 0)
        self._appraisal: Appraisal | None = None
        self._enrolments = [_enrol(spec, name, samples[name]) for name in spec.institutions]
        self._content = initial_model
        self._last_sum: Integers | None = None
        self._rounds: list[Round] = []
        self._now_ms = 0

    def run(self) -> Iterator[Result]:
        metrics = self._evaluate(0, self._spec.institutions)
        yield Result(
            number=0,
            version=0,
            content=self._content,
            metrics=metrics,
            held_out=self._evaluate(0, self._spec.evaluators),
            appraisal=self._appraise(self._model, metrics),
        )
        for number in range(1, self._spec.rounds + 1):
            round_ = self._open(number)
            brought = {one.organisation: self._bring(round_, one) for one in round_.participants}
            yield self._finish(round_, brought)
            if self._progress.ended:
                return

    def _open(self, number: int) -> Round:
        rules = self._spec.norms
        back = rules.adaptive.rounds if rules and rules.adaptive else 0
        published = [one for one in self._rounds if one.state == "published"]
        return open_round(
            self._task,
            self._progress,
            self._rounds[-1] if self._rounds else None,
            self._consortium,
            [CommitteeKey(organisation=one, public_key=_NO_KEY, registered_at_ms=0) for one in _COMMITTEE],
            self._enrolments,
            number=number,
            now_ms=self._now_ms,
            earlier=published[-back:] if back else (),
        )

    def _bring(self, round_: Round, part: Participant) -> tuple[SiteOutcome, Values | None, Update | None]:
        """Return what an institution brings: its outcome, and the values and the verdict if it sends them."""
        name, spec = part.organisation, self._spec
        base, seed = decode_version(spec, self._content).model, self._seeds.get(name)
        plan = plan_training(spec.training, round_.round).describe()
        self._report(f"round {round_.round}: {name} trains on {part.samples} samples: {plan}")
        try:
            trained, found = self._sites[name].train(base, make_request(spec, round_.round, seed), lambda _: None)
            check_loss(trained)
            values, told = encode_trained(BoundedEncoder(seed), spec, round_, part.weight, base, found)
        except (WorkloadError, TrainingError, ProtocolError) as error:
            return SiteOutcome(state="nothing", told=(str(error),)), None, None
        norm = measure_length(measure_change(spec.manifest, base, found)[: spec.manifest.trained])
        last_sum = self._last_sum if round_.norms and round_.norms.needs_last_sum else None
        candidate = Candidate.of(round_, values, weight=part.weight, last_sum=last_sum, reference=None)
        refusal = explain_refusal(candidate)
        if refusal is not None:
            outcome = SiteOutcome(state="nothing", told=(*told, refusal), norm=norm, loss=trained.loss)
            return outcome, None, None
        judgement = Judgement.of(find_breach(VALUE_RULES, candidate), candidate.norms)
        update = judgement.apply(_submit(round_, name), self._now_ms)
        return SiteOutcome(state=update.state, told=tuple(told), norm=norm, loss=trained.loss), values, update

    def _finish(self, round_: Round, brought: Mapping[str, tuple[SiteOutcome, Values | None, Update | None]]) -> Result:
        spec, updates = self._spec, {name: update for name, (_, _, update) in brought.items() if update}
        self._now_ms = round_.judge_deadline_ms
        closed = close_round(
            round_,
            updates,
            (),
            minimum_accepted=spec.minimum_accepted,
            now_ms=self._now_ms,
            aggregation=spec.aggregation,
            last_accepted=self._find_last_accepted(),
        )
        outcomes = {name: outcome for name, (outcome, _, _) in brought.items()}
        version = self._progress.version
        if closed.state == "closed":
            self._publish(closed, [brought[name][1] for name in closed.accepted])
            closed = closed.model_copy(update={"state": "published"})
            version += 1
        self._rounds.append(closed)
        self._progress = self._progress.model_copy(
            update={"round": round_.round, "version": version, "model_digest": compute_digest(self._content)}
        )
        metrics = () if closed.failure else self._evaluate(version, self._spec.institutions)
        update = {"version": version, "digest": self._progress.model_digest}
        appraisal = None if closed.failure else self._appraise(self._model.model_copy(update=update), metrics)
        return Result(
            number=round_.round,
            version=version,
            content=self._content,
            failure=closed.failure,
            outcomes=outcomes,
            metrics=metrics,
            held_out=() if closed.failure else self._evaluate(version, self._spec.evaluators),
            appraisal=appraisal,
            ending=describe_ending(self._progress),
        )

    def _appraise(self, model: Model, metrics: tuple[Metrics, ...]) -> Appraisal | None:
        """Return what a version is worth, with all reports in; the task may end with it."""
        if self._spec.goal is None:
            return None
        found = appraise(self._spec, model, metrics, self._enrolments, self._appraisal, self._now_ms)
        self._appraisal = found
        ended = end_by_goal(self._spec, self._progress, found, _COMMITTEE[0], self._now_ms)
        self._progress = ended or self._progress
        return found

    def _find_last_accepted(self) -> tuple[str, ...] | None:
        """Return whose updates are in the last published sum, where the task wants a stable set."""
        published = [one.accepted for one in self._rounds if one.state == "published"]
        return published[-1] if self._spec.stable_set and published else None

    def _publish(self, round_: Round, accepted: list[Values | None]) -> None:
        """Make the version after a closed round."""
        spec, updates = self._spec, [values for values in accepted if values is not None]
        combination = combine(
            spec.aggregation,
            dimension=spec.manifest.dimension,
            count=len(updates),
            scale=round_.scale,
            trained=spec.manifest.trained,
        )
        total = drive(combination, lambda index: updates[index])
        version = apply_round(
            spec, decode_version(spec, self._content), total, scale=round_.scale, divisor=round_.divisor
        )
        self._content, self._last_sum = encode_version(spec, version), total

    def _evaluate(self, version: int, names: Organisations) -> tuple[Metrics, ...]:
        model, digest = decode_version(self._spec, self._content).model, compute_digest(self._content)
        return tuple(
            Metrics(
                task=self._spec.task,
                version=version,
                organisation=name,
                model_digest=digest,
                values=list_metrics(self._sites[name].evaluate(model)),
                reported_at_ms=0,
            )
            for name in names
        )


def _make_consortium(spec: TaskSpec) -> Consortium:
    roles: dict[str, tuple[Role, ...]] = dict.fromkeys((*spec.institutions, *spec.evaluators), ("institution",))
    roles |= {_COMMITTEE[0]: ("committee", "coordinator"), _COMMITTEE[1]: ("committee",)}
    return Consortium(
        network="simulation",
        channel="simulation",
        contract="simulation",
        sequence=1,
        members=tuple(Member(organisation=name, roles=roles[name]) for name in sorted(roles)),
        threshold=2,
    )


def _enrol(spec: TaskSpec, name: str, samples: int) -> Enrolment:
    return Enrolment(
        task=spec.task,
        organisation=name,
        samples=samples,
        certificate=_NO_CERTIFICATE,
        certificate_digest=_NO_DIGEST,
        enrolled_at_ms=0,
    )


def _submit(round_: Round, name: str) -> Update:
    return Update(
        task=round_.task,
        round=round_.round,
        organisation=name,
        header_digest=_NO_DIGEST,
        state="submitted",
        code="",
        reason="",
        norm_l2_squared_bits=0,
        norm_linf_bits=0,
        submitted_at_ms=0,
        judged_at_ms=0,
    )
