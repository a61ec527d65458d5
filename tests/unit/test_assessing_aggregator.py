"""Committee members with rows of their own try every accepted update on them, and a round goes by what they say."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from blockfl.aggregator.assessment import EvaluationError, Evaluator, add_update, count_loss
from blockfl.aggregator.process import Aggregator, AggregatorSettings
from blockfl.cli.evaluation import RowEvaluator
from blockfl.institution.errors import TrainingError
from blockfl.institution.frames import Evaluated, ModelDescription, TensorShape
from blockfl.institution.vector import Vector
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.assessment import MAX_LOSS_MICRO, Assessment
from blockfl.protocol.table import Table
from support.assessed_task import AssessedTask, make_assessed_spec
from support.federation import COMMITTEE, INSTITUTIONS, make_table
from support.training import NumpyTraining
from support.world import World
from support.world_ledger import WorldHub

QUICK = AggregatorSettings(judge_patience_s=0.02, takeover_s=0.05, enrolment_patience_s=0.05)
WAIT_S = 20


class Rows:
    """Rows on which the initial model is the best there is: the loss is how far the farthest value is from it."""

    def __init__(self, best: Vector) -> None:
        self.best = best
        self.tried = 0

    async def measure_loss(self, values: Vector, table: Table | None) -> float | None:
        """Return the distance."""
        assert table is None, "the task names no columns"
        self.tried += 1
        return float(np.abs(values - self.best).max())


class NoRows:
    """Rows that cannot be used."""

    async def measure_loss(self, values: Vector, table: Table | None) -> float | None:
        """Say so."""
        del table
        raise EvaluationError(f"{values.size} values are too many")


class Stage:
    """An assessed task and its committee's processes."""

    def __init__(self, directory: Path) -> None:
        self.world = World()
        self.hub = WorldHub(self.world)
        self.task = AssessedTask(
            self.hub, self.world.consortium, self.world.signers, self.world.opening_keys, make_assessed_spec()
        )
        self.directory = directory
        self.reports: list[str] = []

    def make(self, organisation: str, evaluator: Evaluator) -> Aggregator:
        return Aggregator(
            self.hub.ledger(organisation),
            self.world.opening_keys[organisation],
            ModelStore(self.directory / organisation),
            QUICK,
            self.reports.append,
            evaluator=evaluator,
        )

    async def read_assessments(self) -> tuple[Assessment, ...]:
        return await self.hub.ledger("university").read_all(catalogue.ASSESSMENTS.below("heart", 1))

    async def contribute(self) -> None:
        """Send everybody's update, delta's large one too."""
        await self.task.prepare()
        await self.task.open()
        for name in INSTITUTIONS:
            values = np.full(10, 2000, np.int16) if name == "delta" else self.task.values(name)
            await self.task.submit(name, 1, values)
            await self.task.upload(name)


async def test_members_try_every_accepted_update_and_the_round_leaves_out_what_does_harm(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.contribute()
    best = np.concatenate([np.linspace(-1, 1, 8, dtype=np.float32), np.ones(2, dtype=np.float32)])
    rows = [Rows(best) for _ in COMMITTEE]
    running = [asyncio.create_task(stage.make(name, one).run()) for name, one in zip(COMMITTEE, rows, strict=True)]
    try:
        async with asyncio.timeout(WAIT_S), stage.hub.changed:
            while (await stage.task.round()).state != "published":
                await stage.hub.changed.wait()
    finally:
        for one in running:
            one.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    round_ = await stage.task.round()
    assert round_.effect is not None
    assert (round_.accepted, round_.effect.harmful) == (("alpha", "beta", "gamma"), ("delta",))
    found = await stage.read_assessments()
    assert {(one.organisation, one.member) for one in found} == {(a, b) for a in INSTITUTIONS for b in COMMITTEE}
    assert [one.tried for one in rows] == [1 + len(INSTITUTIONS)] * 3, "the base model once, each update once"
    part = round_.participant("delta")
    assert part is not None
    expected = round(10**6 * 2000 / 2**round_.scale / part.weight)
    assert {one.rise_micro for one in found if one.organisation == "delta"} == {expected}
    assert any("the loss with the update of delta" in text for text in stage.reports)


async def test_a_member_whose_rows_cannot_be_used_says_so_and_does_its_other_duties(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    await stage.contribute()
    running = asyncio.create_task(stage.make("regulator", NoRows()).run())
    try:
        async with asyncio.timeout(WAIT_S):
            while not any("no loss is measured: 10 values are too many" in text for text in stage.reports):
                await asyncio.sleep(0.01)
            while [(await stage.task.update(name)).state for name in INSTITUTIONS] != ["accepted"] * 4:
                await asyncio.sleep(0.01)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert await stage.read_assessments() == ()


def test_one_update_is_added_as_its_institution_meant_it() -> None:
    base = np.array([1, -1], dtype=np.float32)
    assert add_update(base, np.array([512, -256], dtype=np.int16), 8, 2).tolist() == [2.0, -1.5]


@pytest.mark.parametrize(
    ("loss", "micro"),
    [(0.5, 500_000), (-1.25, -1_250_000), (None, MAX_LOSS_MICRO), (float("nan"), MAX_LOSS_MICRO),
     (float("inf"), MAX_LOSS_MICRO), (1e300, MAX_LOSS_MICRO), (-1e300, -MAX_LOSS_MICRO)],
)  # fmt: skip
def test_a_loss_is_counted_in_millionths(loss: float | None, micro: int) -> None:
    assert count_loss(loss) == micro


class Evaluating(NumpyTraining):
    """A training process of two values that evaluates, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.tables: list[Table | None] = []

    def use_table(self, table: Table | None) -> None:
        """Take note of it."""
        self.tables.append(table)

    async def describe(self) -> ModelDescription:
        """Return one tensor."""
        tensor = TensorShape(name="w", shape=(2,))
        return ModelDescription(tensors=(tensor,), train_samples=5, test_samples=5)

    async def evaluate(self, values: Vector) -> Evaluated:
        """Return the first value as the loss."""
        if self.error:
            raise self.error
        return Evaluated(loss=float(values[0]), samples=5)


async def test_the_training_process_measures_on_its_test_samples() -> None:
    assert await RowEvaluator(Evaluating()).measure_loss(np.array([0.5, 9], dtype=np.float32), None) == 0.5
    with pytest.raises(EvaluationError, match="has 2 values, the task's 3"):
        await RowEvaluator(Evaluating()).measure_loss(np.zeros(3, dtype=np.float32), None)
    with pytest.raises(EvaluationError, match="it crashed"):
        await RowEvaluator(Evaluating(TrainingError("it crashed"))).measure_loss(np.zeros(2, dtype=np.float32), None)


async def test_rows_are_read_by_one_tasks_columns() -> None:
    training, values = Evaluating(), np.array([0.5, 9], dtype=np.float32)
    evaluator = RowEvaluator(training)
    for _ in range(2):
        assert await evaluator.measure_loss(values, make_table()) == 0.5
    assert training.tables == [make_table()]
    with pytest.raises(EvaluationError, match="read for another task's columns"):
        await evaluator.measure_loss(values, None)
