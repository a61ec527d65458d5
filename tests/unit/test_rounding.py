"""What rounding hides of a change is told tensor by tensor, and a bound that swallows a tensor is refused in time."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest

from blockfl.institution.errors import TrainingError
from blockfl.institution.frames import Rehearsed, Train
from blockfl.institution.rehearsal import rehearse
from blockfl.institution.rounding import check_rounding, compute_step, find_finest_step, measure_rounding
from blockfl.institution.training import TrainingProcess
from blockfl.institution.vector import Vector
from blockfl.protocol.model import manifest_of
from blockfl.protocol.norm_rules import AdaptiveBound
from blockfl.protocol.payload import ENCODINGS
from blockfl.protocol.quantise import quantise_update
from blockfl.protocol.table import Table
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.terms import compute_bounds
from support.federation import ALL_NORMS, make_federation
from support.training import NumpyTraining

SHAPES = {"body/kernel": (40, 3), "head/bias": (4,)}
MANIFEST = manifest_of({name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()})
SPEC = make_federation().task.spec


def make_spec(bound: float, **changes: object) -> TaskSpec:
    fields = {"manifest": MANIFEST, "bound_l2_micro": int(bound * 10**6), "weight_cap": 4, **changes}
    return TaskSpec.model_validate(SPEC.model_dump() | fields)


def make_change(body: float, head: float) -> Vector:
    signs = np.random.default_rng(1).choice([-1, 1], MANIFEST.dimension)
    change: Vector = (signs * np.repeat([body, head], [120, 4])).astype(np.float32)
    return change


def test_the_noise_is_what_quantising_many_times_shows() -> None:
    bounds = compute_bounds(10**7, weight_max=4, dimension=MANIFEST.dimension, encoding=ENCODINGS["int16"])
    change, generator = make_change(3e-4, 2e-3), np.random.default_rng(2)
    step = compute_step(bounds.scale, 2)
    squares = np.zeros(MANIFEST.dimension)
    for _ in range(400):
        values = quantise_update(
            change,
            weight=2,
            scale=bounds.scale,
            bound_l2_squared=bounds.l2_squared,
            bound_linf=bounds.linf,
            generator=generator,
        )
        squares += (values * step - change) ** 2 / 400
    for one, tensor in zip(measure_rounding(MANIFEST, change, step), MANIFEST.tensors, strict=True):
        part = slice(tensor.offset, tensor.offset + tensor.size)
        measured = np.sqrt(squares[part].sum()) / np.linalg.norm(change[part])
        assert one.tensor == tensor.name
        assert one.noise == pytest.approx(measured, rel=0.1)
        assert one.noise > 0.1


def test_a_bound_that_swallows_every_tensor_is_refused_with_one_that_does_not() -> None:
    change = make_change(0.01, 0.02)
    with pytest.raises(TrainingError) as caught:
        check_rounding(make_spec(1e5), change)
    text = str(caught.value)
    assert "the norm bound 100000 is too large for this model and these rows" in text
    assert "swallows body/kernel (changes 0.01 to 0.01, noise 20 times as long), head/bias" in text
    assert "needs a bound near --norm-bound 0.2;" in text
    assert check_rounding(make_spec(0.2), change) == []


def test_a_tensor_that_hardly_changes_beside_the_others_is_told_for_no_bound_would_save_it() -> None:
    (text,) = check_rounding(make_spec(0.2), make_change(0.01, 1e-9))
    assert "hides most of head/bias (changes 1e-09 to 1e-09, noise" in text


def test_what_is_not_the_most_a_round_changes_is_told_and_never_refused() -> None:
    (text,) = check_rounding(make_spec(1e5), make_change(0.01, 0.02), is_most=False)
    assert "body/kernel" in text


def test_an_adaptive_bound_counts_by_its_floor() -> None:
    adaptive = AdaptiveBound(rounds=3, factor_permille=1500, floor_l2_micro=200_000)
    spec = make_spec(1e5, norms=ALL_NORMS.model_copy(update={"adaptive": adaptive, "tensors": ()}).model_dump())
    assert find_finest_step(spec) == find_finest_step(make_spec(0.2))
    assert check_rounding(spec, make_change(0.01, 0.02)) == []


class Dry(NumpyTraining):
    """A training process, without the process, whose dry epoch changes every value by 0.001."""

    def use_table(self, table: Table | None, *, tallies: bool = False) -> None:
        self.asked = (table, tallies)

    async def rehearse(self, request: Train) -> tuple[Rehearsed, Vector]:
        return Rehearsed(samples=32, loss=0.5), await self.initial() + np.float32(0.001)


async def test_before_enrolling_the_dry_epoch_is_taken_as_many_times_as_a_round_has_steps() -> None:
    training = cast(TrainingProcess, Dry(MANIFEST))
    samples = (await training.describe()).train_samples
    request_steps = SPEC.training.epochs * -(-samples // SPEC.training.batch_size)
    dry_steps = -(-32 // SPEC.training.batch_size)
    norm = 0.001 * MANIFEST.dimension**0.5 * request_steps / dry_steps
    with pytest.raises(TrainingError, match=f"a norm of about {norm:.2g} at most"):
        await rehearse(training, make_spec(1e6), seed=1)
    assert (await rehearse(training, make_spec(1), seed=1))[-1].startswith("a dry epoch on 32 samples works")


async def test_a_site_that_only_evaluates_sends_nothing_that_could_be_swallowed() -> None:
    training = cast(TrainingProcess, Dry(MANIFEST))
    spec = make_spec(1e6, evaluators=("Zoo",))
    assert await rehearse(training, spec, seed=1, organisation="Zoo")
    with pytest.raises(TrainingError, match="is too large"):
        await rehearse(training, spec, seed=1, organisation=spec.institutions[0])


def test_a_tensor_of_many_blocks_is_measured_whole() -> None:
    size = 2 * 2**16 + 5
    manifest = manifest_of({"large": np.zeros(size, np.float32), "still": np.zeros(3, np.float32)})
    change = np.zeros(manifest.dimension, np.float32)
    change[:size:2] = np.float32(-0.25)
    change[7], change[2**16 + 1], change[size - 1] = 0.75, 0.125, np.float32(-0.5)
    (one,) = measure_rounding(manifest, change, 1.0)
    assert (one.tensor, one.smallest, one.largest) == ("large", 0.125, 0.75)
    share = np.abs(change[:size].astype(np.float64)) % 1.0
    expected = np.sqrt(np.sum(share * (1 - share))) / np.linalg.norm(change[:size].astype(np.float64))
    assert one.noise == pytest.approx(expected, rel=1e-12)
