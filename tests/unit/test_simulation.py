"""A simulated task: the network's own rules on what each institution brings, and what it proposes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from typer.testing import CliRunner

from blockfl.cli.benefit import describe_benefits, list_benefits
from blockfl.cli.main import app
from blockfl.cli.simulate import describe_round, describe_training
from blockfl.institution.errors import SettingsError, WorkloadError
from blockfl.institution.frames import Train, Trained, TrainingProgress
from blockfl.institution.vector import Vector
from blockfl.protocol.aggregation import FEDAVG, Median
from blockfl.protocol.blob import split_blob
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.goal import Goal
from blockfl.protocol.model import decode_model, encode_model, manifest_of
from blockfl.protocol.norm_rules import NormRules
from blockfl.protocol.proposal import propose_bound
from blockfl.protocol.task import Deadlines, TaskSpec
from blockfl.protocol.training import Phase, StepSchedule, Training
from blockfl.simulation.alone import train_alone
from blockfl.simulation.simulation import Result, simulate
from blockfl.simulation.worker import AloneDone, Brought, Pooled, RoundDone
from support.simulated_site import NumpySite
from support.training import NumpyTraining

SITES = ("north", "south", "west")
MANIFEST = manifest_of({"weights": np.zeros(40, np.float32)})
INITIAL = encode_model(MANIFEST, np.zeros(40, np.float32))


def make_spec(**changes: object) -> TaskSpec:
    fields: dict[str, object] = {
        "task": "simulated",
        "title": "simulated",
        "manifest": MANIFEST,
        "initial_model": split_blob(INITIAL)[0],
        "encoding": "int16",
        "aggregation": FEDAVG,
        "check": "recompute",
        "aggregator": "coordinator",
        "institutions": SITES,
        "rounds": 3,
        "minimum_accepted": 3,
        "bound_l2_micro": 10**7,
        "weight_cap": 1,
        "samples_cap": 1000,
        "deadlines": Deadlines(submit_s=60, judge_s=60, publish_s=60),
        "training": Training(epochs=1, batch_size=32, learning_rate_micro=0),
    }
    return TaskSpec.model_validate(fields | changes)


def make_sites() -> dict[str, NumpySite]:
    return {name: NumpySite(NumpyTraining(MANIFEST, seed=number)) for number, name in enumerate(SITES)}


def run(spec: TaskSpec, sites: Mapping[str, NumpySite] | None = None, seed: int = 5) -> list[Result]:
    samples = dict.fromkeys(spec.institutions, 100)
    return list(simulate(spec, INITIAL, sites or make_sites(), samples, seeds=dict.fromkeys(spec.institutions, seed)))


class Diverging(NumpySite):
    """Brings what no institution may send."""

    def train(self, base: Vector, request: Train, report: object) -> tuple[Trained, Vector]:
        return Trained(samples=100, loss=0.5), np.full_like(base, np.nan)


class Lossless(NumpySite):
    """Trains to a loss that is not finite."""

    def train(self, base: Vector, request: Train, report: object) -> tuple[Trained, Vector]:
        return Trained(samples=100, loss=None), base


def test_each_round_moves_the_model_to_the_mean_of_what_the_institutions_want() -> None:
    sites, results = make_sites(), run(make_spec(rounds=12))
    assert [(one.number, one.version, one.failure) for one in results] == [(n, n, "") for n in range(13)]
    target = np.mean([site.training.target for site in sites.values()], axis=0)
    found = decode_model(MANIFEST, results[-1].content)
    assert np.abs(found - target).max() < 0.02 + 0.75**12 * np.abs(target).max()
    losses = [one.pooled["loss"]["value"] for one in results]
    assert losses == sorted(losses, reverse=True)


def test_equal_seeds_give_equal_models_and_other_seeds_round_otherwise() -> None:
    first, again, other = run(make_spec()), run(make_spec()), run(make_spec(), seed=6)
    assert [one.digest for one in first] == [one.digest for one in again]
    assert first[0].digest == other[0].digest
    assert first[-1].digest != other[-1].digest


def test_an_update_over_the_bound_is_shortened_and_told() -> None:
    results = run(make_spec(bound_l2_micro=10_000))
    for outcome in results[1].outcomes.values():
        assert outcome.state == "accepted"
        assert outcome.norm is not None
        assert outcome.norm > 0.01
        assert outcome.told[0].startswith("the update is shortened")
    moved = np.linalg.norm(decode_model(MANIFEST, results[1].content))
    assert moved <= 0.01


def test_an_institution_that_is_not_finite_brings_nothing_and_the_others_go_on() -> None:
    names = (*SITES, "x-ray")
    sites = make_sites() | {"x-ray": Diverging(NumpyTraining(MANIFEST))}
    results = run(make_spec(institutions=names), sites)
    assert results[-1].version == 3
    assert results[1].outcomes["x-ray"].state == "nothing"
    assert "BFL307" in results[1].outcomes["x-ray"].told[0]


def test_a_round_with_too_few_updates_fails_and_the_next_begins_from_the_same_version() -> None:
    sites = make_sites() | {"west": Diverging(NumpyTraining(MANIFEST))}
    results = run(make_spec(), sites)
    assert {one.failure for one in results[1:]} == {"too few accepted"}
    assert {one.digest for one in results} == {results[0].digest}


class Away(NumpySite):
    """Brings nothing in one round."""

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        if request.round == 2:
            raise WorkloadError("nobody is there")
        return super().train(base, request, report)


def test_a_round_without_one_institution_fails_where_the_set_is_stable() -> None:
    names = (*SITES, "x-ray")
    for stable_set, failure in ((False, ""), (True, "set changed")):
        sites = make_sites() | {"x-ray": Away(NumpyTraining(MANIFEST))}
        results = run(make_spec(institutions=names, stable_set=stable_set), sites)
        assert [one.failure for one in results[1:]] == ["", failure, ""]


def test_an_update_that_breaks_a_rule_is_not_sent() -> None:
    strict = NormRules(tensors=(), minimum_l2_micro=4_000_000, minimum_cosine_micro=None, adaptive=None)
    results = run(make_spec(norms=strict))
    assert {one.state for one in results[1].outcomes.values()} == {"nothing"}
    assert "BFL4" in results[1].outcomes["north"].told[-1]


def test_the_median_is_the_median() -> None:
    sites, results = make_sites(), run(make_spec(aggregation=Median()))
    wanted = np.median([0.25 * site.training.target for site in sites.values()], axis=0)
    assert np.abs(decode_model(MANIFEST, results[1].content) - wanted).max() < 1e-3


def test_a_model_of_another_task_is_refused() -> None:
    other = encode_model(manifest_of({"other": np.zeros(3, np.float32)}), np.zeros(3, np.float32))
    with pytest.raises(ProtocolError, match="BFL306"):
        list(simulate(make_spec(), other, make_sites(), dict.fromkeys(SITES, 100)))


@pytest.mark.parametrize(
    ("norms", "bound"), [((0.126, 0.1), 0.2), ((1.0, 4.0), 7.0), ((7.0,), 15.0), ((70.0,), 150.0), ((), None)]
)
def test_the_proposed_bound_has_room_for_half_as_much_again(norms: tuple[float, ...], bound: float | None) -> None:
    proposal = propose_bound(norms, 2.0)
    assert proposal.bound == (None if bound is None else pytest.approx(bound))
    assert proposal.shortened == sum(norm > 2.0 for norm in norms)


@pytest.mark.parametrize("options", [["--rule", "trusted_mean"], ["--minimum-reference-cosine", "0.2"]])
def test_a_rule_that_needs_a_referee_is_refused(options: list[str], tmp_path: Path) -> None:
    command = ["simulate", "--model", __file__, "--site", f"north={__file__}", "--directory", str(tmp_path), *options]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, SettingsError)
    assert "a simulation has no referee" in str(result.exception)


def test_a_loss_that_is_not_finite_brings_nothing_and_says_what_to_do() -> None:
    names = (*SITES, "x-ray")
    sites = make_sites() | {"x-ray": Lossless(NumpyTraining(MANIFEST))}
    outcome = run(make_spec(institutions=names), sites)[1].outcomes["x-ray"]
    assert outcome.state == "nothing"
    assert "lower the learning rate" in outcome.told[0]


@pytest.mark.parametrize(
    ("sites", "words"),
    [
        (["north"], "expected NAME=FILE"),
        (["north=/nowhere.csv"], "no such file"),
        (["north={file}", "north={file}"], "named twice"),
        (["n={file}"], "'n' cannot be an organisation's name: expected 2 to 64 letters"),
    ],
)
def test_sites_that_cannot_be_are_refused(sites: list[str], words: str) -> None:
    from blockfl.cli.simulate import parse_sites

    with pytest.raises(SettingsError, match=words):
        parse_sites([text.format(file=__file__) for text in sites])


@pytest.mark.parametrize(
    ("third", "words"),
    [
        (None, "2 institutions train, and a task has at least 3"),
        ("y,x,sick", "the columns of south are not those of east, and nobody has said what they mean"),
        ("x,z,sick", "east has x, y, sick; south has x, z, sick"),
    ],
)
def test_what_can_be_seen_before_any_training_is_refused_at_once(tmp_path: Path, third: str | None, words: str) -> None:
    headers = {"east": "x,y,sick", "north": "x,y,sick"} | ({"south": third} if third else {})
    command = ["simulate", "--model", str(tmp_path / "none.keras"), "--label", "sick", "--directory", str(tmp_path)]
    for name, header in headers.items():
        (tmp_path / f"{name}.csv").write_text(f"{header}\n1,2,0\n")
        command += ["--site", f"{name}={tmp_path / name}.csv"]
    with pytest.raises(SettingsError, match=words):
        CliRunner().invoke(app, command, catch_exceptions=False)


@pytest.mark.parametrize(
    ("losses", "is_told"),
    [([1630.0, 1612.0], True), ([0.7, 0.3], False), ([0.5, 0.6], True), ([-1.0, -1.2], False), ([0.7], False)],
)
def test_a_loss_that_hardly_falls_is_told_with_what_to_try(losses: list[float], is_told: bool) -> None:
    def make_round(number: int, loss: float) -> RoundDone:
        one = Brought(institution="north", state="accepted", told=(), norm=1.0, loss=loss)
        none = Brought(institution="south", state="nothing", told=(), norm=None, loss=None)
        return RoundDone(number=number, version=number, digest="", file="", failure="", brought=(one, none), metrics=())

    rounds = [make_round(number, loss) for number, loss in enumerate(losses, start=1)]
    start = RoundDone(number=0, version=0, digest="", file="", failure="", brought=(), metrics=())
    advice = describe_training([start, *rounds])
    assert bool(advice) == is_told
    assert not advice or f"from {losses[0]:.4g} to {losses[-1]:.4g}" in advice


def test_a_value_that_is_a_mean_of_institutions_is_told_with_its_range() -> None:
    at = {"north": 0.5, "south": 0.875}
    auc = Pooled(name="auc", value=0.6, pooling="institution", by_institution=at)
    accuracy = Pooled(name="accuracy", value=0.7, pooling="mean", by_institution=at)
    done = RoundDone(
        number=0, version=0, digest="", file="", failure="", brought=(), metrics=(accuracy, auc), held_out=(auc,)
    )
    told = "auc 0.6000 (mean of 0.5000 to 0.8750)"
    assert describe_round(done) == f"version 0: accuracy 0.7000, {told}; held out: {told}"


def test_an_institution_alone_goes_on_from_its_own_values_and_is_measured_everywhere() -> None:
    sites, spec = make_sites(), make_spec()
    alone = train_alone(spec, INITIAL, "north", sites, rounds=3, seed=5)
    target = sites["north"].training.target.astype(np.float64)
    losses = {name: _compute_loss((1 - 0.75**3) * target, site.training.target) for name, site in sites.items()}
    found = {one.organisation: {value.name: value.value_micro for value in one.values} for one in alone.everywhere}
    assert {name: values["loss"] for name, values in found.items()} == pytest.approx(
        {name: loss * 1e6 for name, loss in losses.items()}, abs=2
    )
    assert alone.own == next(one for one in alone.everywhere if one.organisation == "north")
    assert sum(site.training.trained for site in sites.values()) == 3


def _compute_loss(values: npt.NDArray[np.float64], target: Vector) -> float:
    return float(np.sum((values - target) ** 2) / 2)


@pytest.mark.parametrize(("site", "why"), [(Lossless, "is not finite"), (Away, "nobody is there")])
def test_an_institution_that_cannot_train_alone_says_why(site: type[NumpySite], why: str) -> None:
    sites = make_sites() | {"north": site(NumpyTraining(MANIFEST))}
    alone = train_alone(make_spec(), INITIAL, "north", sites, rounds=3, seed=5)
    assert alone.own is None
    assert alone.everywhere == ()
    assert why in alone.failure


def test_who_is_better_off_alone_is_told_for_each_metric() -> None:
    def pooled(name: str, **values: float) -> Pooled:
        return Pooled(name=name, value=0.5, pooling="mean", by_institution=values)

    together = RoundDone(
        number=1,
        version=1,
        digest="",
        file="",
        failure="",
        brought=(),
        metrics=(pooled("accuracy", north=0.7, south=0.6, west=0.5), pooled("loss", north=0.4, south=0.5, west=0.6)),
    )
    alone = [
        AloneDone(institution="north", own={"accuracy": 0.6, "loss": 0.3}, everywhere=(), failure=""),
        AloneDone(
            institution="south",
            own={"accuracy": 0.9, "loss": 0.9, "other": 1.0},
            everywhere=(pooled("accuracy", south=0.9),),
            failure="",
        ),
        AloneDone(institution="west", own={}, everywhere=(), failure="no rows"),
    ]
    assert describe_benefits(alone, together) == [
        "west could not train alone: no rows",
        "accuracy on their own test samples: 1 of 2 are better off together; south is better off alone",
        "loss on their own test samples: 1 of 2 are better off together; north is better off alone",
    ]
    assert describe_benefits(alone[2:], together) == ["west could not train alone: no rows"]
    assert [tuple(row.values()) for row in list_benefits(alone, together)] == [
        ("north", "accuracy", "0.6000", "0.7000", "–", "–"),
        ("north", "loss", "0.3000", "0.4000", "–", "–"),
        ("south", "accuracy", "0.9000", "0.6000", "0.5000", "0.5000"),
        ("south", "loss", "0.9000", "0.5000", "–", "–"),
    ]


class Listening(NumpySite):
    """Keeps what it was told."""

    def __init__(self, training: NumpyTraining) -> None:
        super().__init__(training)
        self.told: list[tuple[int, int, float | None, float]] = []

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        self.told.append((request.round, request.epochs, request.learning_rate, request.proximal))
        return super().train(base, request, report)


def test_training_is_told_what_the_task_says_of_each_round() -> None:
    training = Training(
        epochs=2,
        batch_size=32,
        learning_rate_micro=80_000,
        schedule=StepSchedule(every=1, factor_micro=500_000),
        proximal_micro=10_000,
        phases=(Phase(first_round=3, epochs=1, proximal_micro=0),),
    )
    sites = {name: Listening(NumpyTraining(MANIFEST)) for name in SITES}
    run(make_spec(training=training), sites)
    assert sites["north"].told == [(1, 2, 0.08, 0.01), (2, 2, 0.04, 0.01), (3, 1, 0.02, 0.0)]


def test_a_task_with_a_goal_ends_when_nothing_gets_better_and_names_the_best_version() -> None:
    goal = Goal(metric="loss", better="min", patience=2, min_delta_micro=10_000, report_s=60)
    results = run(make_spec(rounds=50, goal=goal))
    values = [one.appraisal.value_micro for one in results if one.appraisal and one.appraisal.value_micro is not None]
    assert len(values) == len(results) < 51
    last = results[-1]
    assert last.appraisal is not None
    assert last.appraisal.without == 2
    assert values[last.appraisal.best_version or 0] == min(values)
    assert "loss has not become better by more than 0.01 in 2 versions" in last.ending
    assert {one.ending for one in results[:-1]} == {""}
