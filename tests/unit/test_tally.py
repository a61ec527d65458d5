"""Tallies: what the columns of all institutions add up to, in one round, exactly, and no institution's own."""

from __future__ import annotations

import asyncio
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from examples.bank import example as bank
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blockfl.cli.columns import format_columns, read_columns
from blockfl.cli.tally import Statistic, compute_statistics, make_tally, read_statistics
from blockfl.cli.terms import parse_terms
from blockfl.institution.agent import AgentSettings, InstitutionAgent
from blockfl.institution.dataset import load_dataset
from blockfl.institution.errors import DataError, ModelError
from blockfl.institution.frames import Begin, Evaluated, ModelDescription, Train, Trained
from blockfl.institution.outbox import Outbox
from blockfl.institution.step import Step
from blockfl.institution.tallying import Tallier
from blockfl.institution.training import Progress, TrainingService
from blockfl.institution.vector import Vector
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.blob import split_blob
from blockfl.protocol.digits import decode_tally, encode_tally, read, spell
from blockfl.protocol.payload import ENCODINGS, INT16
from blockfl.protocol.table import Column, Table
from blockfl.protocol.tally import (
    COUNT_DIGITS,
    DIGIT_LIMIT,
    LEAST_RANGE,
    ROWS,
    SUM_DIGITS,
    compute_tally_bound,
    list_fields,
    make_tally_manifest,
)
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.terms import compute_scale
from support.federation import INSTITUTIONS, make_table
from support.referee import Referee
from support.scenario import Scenario
from support.world import World
from support.world_ledger import WorldHub


@given(st.lists(st.integers(-(2**90), 2**90), min_size=1, max_size=5), st.integers(0, 2**32))
def test_sums_of_digits_spell_the_sum_of_numbers(numbers: list[int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    spelled = [spell(number, SUM_DIGITS, generator) for number in numbers]
    assert all(-DIGIT_LIMIT <= digit <= DIGIT_LIMIT for digits in spelled for digit in digits)
    assert read([sum(column) for column in zip(*spelled, strict=True)]) == sum(numbers)


def test_a_number_of_too_many_digits_is_refused() -> None:
    generator = np.random.default_rng(0)
    assert read(spell(2**95 - 1, SUM_DIGITS, generator)) == 2**95 - 1
    for number in (2**95, -(2**95) - 1):
        with pytest.raises(ValueError, match="more than 24 digits"):
            spell(number, SUM_DIGITS, generator)


def test_equal_numbers_are_spelled_so_differently_that_digits_tell_nothing() -> None:
    generator = np.random.default_rng(1)
    digits = np.array([[spell(number, COUNT_DIGITS, generator) for _ in range(2000)] for number in (3, 300)])
    means, deviation = digits.mean(axis=1), digits.std(axis=1)
    # Every digit but the lowest lies far more apart by chance than by what the number is.
    assert (np.abs(means[0] - means[1])[1:-1] < 0.15 * deviation.min(axis=0)[1:-1]).all()


@pytest.mark.parametrize("columns", [1, 30, 400])
def test_no_digit_is_rounded_or_shortened(columns: int) -> None:
    named = tuple(Column(name=f"c{number}", kind="number") for number in range(columns))
    manifest = make_tally_manifest(Table(columns=named, label=Column(name="y", kind="ordinal", values=("0", "1"))))
    bound = compute_tally_bound(manifest)
    narrow = replace(INT16, max_value=LEAST_RANGE)
    assert compute_scale(bound, weight_max=1, dimension=manifest.dimension, encoding=narrow) >= 0
    assert bound >= DIGIT_LIMIT * np.sqrt(manifest.dimension) * 1e6


def write_sites(directory: Path) -> tuple[Table, dict[str, Path]]:
    table = read_columns(bank.COLUMNS)
    files = list(bank.write_sites(directory, 0).values())
    return table, dict(zip(INSTITUTIONS, files, strict=True))


def make_spec(table: Table) -> tuple[TaskSpec, bytes]:
    begun, terms = make_tally(parse_terms(rounds=1, weight_cap=1), table)
    spec = terms.specify(
        task="heart",
        title="columns",
        manifest=begun.manifest,
        initial_model=split_blob(begun.content)[0],
        aggregator="coordinator",
        institutions=INSTITUTIONS,
    )
    return spec, begun.content


def test_an_encoding_that_would_round_digits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table(columns=(Column(name="c", kind="number"),), label=Column(name="y", kind="ordinal", values=("0", "1")))
    make_spec(table)
    monkeypatch.setitem(ENCODINGS, "int16", replace(INT16, max_value=LEAST_RANGE - 1))
    with pytest.raises(LedgerError, match="would round the digits"):
        make_spec(table)


def load(table: Table, file: Path) -> Tallier:
    return Tallier.load(
        Begin(
            confined=False, scratch="", readable=(), private=(), model=None, code=None, data=str(file), label=None,
            test_fraction=0.25, seed=None, table=table.encode().decode(), tallies=True,
        )
    )  # fmt: skip


class Tallying(TrainingService):
    """A tallier in this process."""

    def __init__(self, tallier: Tallier) -> None:
        self.tallier = tallier

    async def describe(self) -> ModelDescription:
        return self.tallier.describe()

    async def initial(self) -> Vector:
        return self.tallier.initial()

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        trained, values = self.tallier.train(base, request, lambda _: None)
        return values, trained

    async def evaluate(self, values: Vector) -> Evaluated:
        raise AssertionError("totals are not evaluated")

    async def close(self) -> None:
        pass


async def play(tmp_path: Path, table: Table, files: dict[str, Path]) -> tuple[Scenario, Referee, list[Step]]:
    """Run the whole round with real agents on the in-memory ledger."""
    world = World()
    world.now_ms = time.time_ns() // 1_000_000
    hub, steps = WorldHub(world), list[Step]()
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, make_spec(table))
    await scenario.register()
    await scenario.create()
    referee = Referee(hub, ModelStore(tmp_path / "coordinator"))
    async with asyncio.TaskGroup() as group:
        for name, file in files.items():
            agent = InstitutionAgent(
                hub.ledger(name),
                Tallying(load(table, file)),
                ModelStore(tmp_path / name / "models"),
                Outbox(tmp_path / name / "outbox"),
                AgentSettings(task="heart"),
                report=steps.append,
            )
            group.create_task(agent.run())
        group.create_task(referee.run(1, *files))
    return scenario, referee, steps


def test_a_round_gives_what_all_rows_together_have(tmp_path: Path) -> None:
    table, files = write_sites(tmp_path)
    scenario, referee, steps = asyncio.run(play(tmp_path, table, files))
    spec, found = asyncio.run(read_statistics(referee.ledger, "heart"))
    assert spec == scenario.spec
    rows = [row for file in files.values() for row in read_training_rows(file)]
    assert {one.rows for one in found} == {len(rows)}
    for one in found:
        cells = [row[one.column.name] for row in rows]
        if one.column.kind == "number":
            numbers = np.array([float(cell) for cell in cells if cell not in ("", "NA")])
            assert one.missing == len(cells) - len(numbers)
            assert one.mean == pytest.approx(numbers.mean(), rel=1e-12)
            assert one.deviation == pytest.approx(numbers.std(), rel=1e-9)
            if one.quartiles:
                step = (one.column.maximum_micro or 0) - (one.column.minimum_micro or 0)
                np.testing.assert_allclose(one.quartiles, np.quantile(numbers, [0.25, 0.5, 0.75]), atol=step / 20e6)
        else:
            assert dict(one.counts) == {
                value: sum(cell.replace("NA", "") == value for cell in cells) for value in one.column.values
            }
            assert one.other == 0
    assert not any("shortened" in step.text or "rounding" in step.text for step in steps)
    told = [step.text for step in steps if step.stage == "train"]
    counted = [int(text.split()[1]) for text in told if text.startswith("counted ")]
    assert sum(counted) == len(rows)
    assert not any("loss" in text or "epoch" in text for text in told)
    reports = asyncio.run(referee.ledger.read_all(catalogue.REPORTS.below("heart", 1)))
    assert [one.values for one in reports] == [()] * 4
    assert len({one.model_digest for one in reports}) == 1


def read_training_rows(file: Path) -> list[dict[str, str]]:
    """Return the rows that a model would be trained with, as ``load_dataset`` splits them."""
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[number] for number in order[round(0.25 * len(rows)) :]]


def test_agreed_columns_scale_every_site_alike(tmp_path: Path) -> None:
    table, files = write_sites(tmp_path)
    drafted = Table(
        columns=tuple(
            one.model_copy(update={"center_micro": 0, "scale_micro": 10**6, "missing_micro": None})
            if one.kind == "number"
            else one
            for one in table.columns
        ),
        label=table.label,
    )
    counted = [load(drafted, file) for file in files.values()]
    zeros = counted[0].initial()
    request = Train(epochs=1, batch_size=1, learning_rate=None, seed=None)
    digits = np.mean([one.train(zeros, request, lambda _: None)[1] for one in counted], axis=0, dtype=np.float64)
    found = compute_statistics(drafted, digits.astype(np.float32), len(counted))
    agreed = Table(columns=tuple(one.fit() for one in found[:-1]), label=table.label)
    path = tmp_path / "agreed.yaml"
    path.write_text(format_columns(agreed))
    assert read_columns(path) == agreed
    x = np.concatenate([load_dataset(file, None, 0.25, agreed).x_train for file in files.values()])
    names = [column.name for column in agreed.columns for _ in range(column.width)]
    for place, name in enumerate(names):
        if next(one.kind for one in agreed.columns if one.name == name) == "number":
            assert abs(x[:, place].mean()) < 1e-4
            assert 0.9 < x[:, place].std() < 1.0001


def make_file(tmp_path: Path, rows: list[str], header: str = "age,pain,sick") -> Path:
    file = tmp_path / "rows.csv"
    file.write_text("\n".join([header, *rows]) + "\n")
    return file


def test_what_the_task_does_not_list_is_counted_and_told_here_only(tmp_path: Path) -> None:
    rows = ["50,typical,no", "60,odd,yes", "NA,,no", "40,none,maybe"] * 10
    tallier = load(make_table(), make_file(tmp_path, rows))
    notes = tallier.describe().notes
    assert any("column pain: 10 cells hold none of the task's values: 'odd'" in note for note in notes)
    assert any("column sick: 10 cells hold none of the task's values: 'maybe'" in note for note in notes)
    values = tallier.train(tallier.initial(), Train(epochs=1, batch_size=1, learning_rate=None, seed=None), print)[1]
    found = {one.column.name: one for one in compute_statistics(make_table(), values, 1)}
    assert {one.rows for one in found.values()} == {30}
    assert sum(count for _, count in found["pain"].counts) + found["pain"].other == 30
    assert found["pain"].other > 0 < found["sick"].other
    assert found["age"].missing + found["age"].present == 30
    assert len(found["age"].quartiles) == 3


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["50,typical,no", "130,typical,no"], "130 is outside of what the task allows"),
        (["50,typical,no", "old,typical,no"], "expected a number, got 'old'"),
        (["50,typical,no"], "1 rows: expected at least two"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_its_place(tmp_path: Path, rows: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        load(make_table(), make_file(tmp_path, rows))


def test_a_tally_refuses_other_files_columns_and_bases(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a file named"):
        load(make_table(), tmp_path / "rows.npz")
    with pytest.raises(DataError, match="cannot be read"):
        load(make_table(), tmp_path / "none.csv")
    with pytest.raises(DataError, match="'sick' is not there"):
        load(make_table(), make_file(tmp_path, ["1,2"], "age,pain"))
    tallier = load(make_table(), make_file(tmp_path, ["50,typical,no"] * 4))
    base = tallier.initial() + 1
    with pytest.raises(ModelError, match="begins with zeros"):
        tallier.train(base, Train(epochs=1, batch_size=1, learning_rate=None, seed=None), print)
    with pytest.raises(ModelError, match="is no model"):
        tallier.save(base, tmp_path / "x")


def test_a_tally_is_one_round_of_plain_sums() -> None:
    spec, _ = make_spec(make_table())
    assert TaskSpec.decode(spec.encode()) == spec
    for changes, words in (
        ({"table": None}, "a tally counts the columns of a table"),
        ({"table": Table(columns=make_table().columns[:1], label=make_table().label)}, "not those of a tally"),
        ({"rounds": 2}, "one round of plain sums"),
        ({"weight_cap": 2}, "one round of plain sums"),
        ({"personal": ("head/*",)}, "one round of plain sums"),
        ({"bound_l2_micro": 10**6}, "has the bound"),
    ):
        with pytest.raises(ValidationError, match=words):
            TaskSpec.model_validate({**dict(spec), **changes})


def test_statistics_of_a_task_that_trains_or_is_not_over_are_refused(tmp_path: Path) -> None:
    async def ask(spec: tuple[TaskSpec, bytes] | None) -> None:
        world = World()
        hub = WorldHub(world)
        scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, spec)
        await scenario.register()
        await scenario.create()
        await read_statistics(hub.ledger("regulator"), "heart")

    with pytest.raises(LedgerError, match="trains a model"):
        asyncio.run(ask(None))
    with pytest.raises(LedgerError, match="has published no totals yet"):
        asyncio.run(ask(make_spec(make_table())))


def test_totals_come_back_as_they_were_counted() -> None:
    table = make_table()
    counted = {
        name: [number + 1 for number, _ in enumerate(list_fields(column))]
        for name, column in zip(table.names, (*table.columns, table.label), strict=True)
    } | {ROWS: [9]}
    generator = np.random.default_rng(2)
    digits = np.stack([encode_tally(table, counted, generator) for _ in range(5)]).astype(np.float64)
    found = decode_tally(table, (digits.sum(axis=0) / 5).astype(np.float32), 5)
    assert found == {name: tuple(5 * one for one in fields) for name, fields in counted.items()}


def test_a_column_without_any_number_keeps_its_scale() -> None:
    column = Column(name="age", kind="number", center_micro=5)
    assert Statistic(column=column, rows=3, present=0).fit() == column
    constant = Statistic(column=column, rows=3, present=2, mean=7.0, deviation=0.0).fit()
    assert (constant.center_micro, constant.scale_micro, constant.missing_micro) == (7_000_000, 10**6, 7_000_000)
    words = Column(name="pain", kind="category", values=("a", "b"))
    assert Statistic(column=words, rows=3, present=2, counts=(("a", 1), ("b", 1))).fit().values == ("a", "b", "")
