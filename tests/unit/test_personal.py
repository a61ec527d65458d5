"""Personal layers: what a task's patterns match stays at each institution, in the agent and in the simulation."""

from __future__ import annotations

import asyncio
import fnmatch
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blockfl.cli.export import make_card, read_personal
from blockfl.cli.formats import Exported, write_arrays
from blockfl.institution.agent import AgentSettings, InstitutionAgent
from blockfl.institution.errors import SettingsError
from blockfl.institution.frames import ModelDescription, Rehearsed, TensorShape, Train, Trained
from blockfl.institution.outbox import Outbox
from blockfl.institution.personal import (
    Arrays,
    DividedTraining,
    Division,
    PersonalMemory,
    PersonalStore,
    check_patterns,
)
from blockfl.institution.rehearsal import rehearse
from blockfl.institution.step import Step
from blockfl.institution.training import Progress, TrainingProcess
from blockfl.institution.vector import Vector
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.assessment import Effect
from blockfl.protocol.blob import split_blob
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.model import decode_model, encode_model, manifest_of
from blockfl.protocol.personal import matches
from blockfl.protocol.table import Table
from blockfl.protocol.task import TaskSpec
from blockfl.simulation.divided import DividedSite
from blockfl.simulation.simulation import Result, simulate
from support.federation import INSTITUTIONS
from support.referee import Referee
from support.scenario import Scenario, make_spec
from support.simulated_site import NumpySite
from support.training import NumpyTraining
from support.world import World
from support.world_ledger import WorldHub

WHOLE = manifest_of(
    {"kernel": np.zeros(4, np.float32), "head/bias": np.zeros(3, np.float32), "bias": np.zeros((2, 2), np.float32)}
)
"""8 values that are shared, around 3 that are not."""
PERSONAL = slice(4, 7)
PATTERNS = ("head/*",)


def describe(*names: str) -> ModelDescription:
    tensors = tuple(TensorShape(name=name, shape=(2,)) for name in names)
    return ModelDescription(tensors=tensors, train_samples=1, test_samples=1)


@given(st.text("ab/", max_size=8), st.text("ab/*", max_size=6))
def test_a_pattern_matches_as_the_shell_s_star_does(name: str, pattern: str) -> None:
    assert matches(name, pattern) == (re.match(fnmatch.translate(pattern), name) is not None)


def test_only_the_star_is_special() -> None:
    assert matches("a[b]?", "a[b]?")
    assert not matches("ab", "a?")
    assert not matches("ab", "[a]b")


def test_a_pattern_of_many_stars_is_answered_at_once() -> None:
    started = time.process_time()
    assert not matches("a" * 200, "*a" * 99 + "*b*")
    assert time.process_time() - started < 0.1


def make_personal_spec(**changes: object) -> tuple[TaskSpec, bytes]:
    spec, model = make_spec(dimension=8, rounds=3, minimum_accepted=4)
    manifest = manifest_of({"kernel": np.zeros(4, np.float32), "bias": np.zeros((2, 2), np.float32)})
    changes = {"manifest": manifest, "personal": PATTERNS} | changes
    model = encode_model(manifest, np.zeros(8, np.float32))
    return TaskSpec.model_validate({**dict(spec), "initial_model": split_blob(model)[0], **changes}), model


def test_a_task_says_its_patterns_and_keeps_them_out_of_its_model() -> None:
    spec, _ = make_personal_spec()
    assert TaskSpec.decode(spec.encode()).personal == PATTERNS
    for personal, words in (
        (("bi*", "head/*"), "tensor bias is personal"),
        (("head/*", "head"), "ascending order"),
        (("head/*", "head/*"), "ascending order"),
    ):
        with pytest.raises(ValidationError, match=words):
            make_personal_spec(personal=personal)
    with pytest.raises(ValidationError, match="assessors have no personal layers"):
        make_personal_spec(effect=Effect(assessors=("regulator",), tolerance_micro=1))


def test_a_model_is_divided_and_joined_again() -> None:
    division = Division.of(describe("a/x", "b/x", "c"), ("*/x",))
    values = np.arange(6, dtype=np.float32)
    shared, personal = division.split(values)
    assert shared.tolist() == [4, 5]
    assert {name: array.tolist() for name, array in personal.items()} == {"a/x": [0, 1], "b/x": [2, 3]}
    assert division.join(shared, personal).tolist() == values.tolist()
    assert division.notes == ("4 values are personal and stay here: a/x, b/x",)
    assert Division.of(describe("a"), ()).notes == ()
    with pytest.raises(SettingsError, match="not those of this model"):
        division.join(shared, {"a/x": np.zeros(2)})
    with pytest.raises(SettingsError, match="nothing would be shared"):
        Division.of(describe("a/x"), ("*/x",))


def test_a_pattern_that_matches_nothing_is_refused_with_what_there_is() -> None:
    check_patterns(describe("a/x", "b"), ("a/*", "b"))
    with pytest.raises(
        SettingsError, match=re.escape("--personal head/*: no tensor has such a name; there are a/x, b")
    ):
        check_patterns(describe("a/x", "b"), ("a/*", "head/*"))


def test_what_is_kept_is_that_of_the_round_before(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path / "heart")
    assert store.load() is None
    for number in (1, 2, 4):
        store.keep(number, {"head/bias": np.full(3, number, np.float32)})
    assert sorted(path.name for path in (tmp_path / "heart").iterdir()) == ["000002.safetensors", "000004.safetensors"]
    for before, expected in ((None, 4), (5, 4), (4, 2), (3, 2)):
        found = PersonalStore(tmp_path / "heart").load(before)
        assert found is not None
        assert found["head/bias"].tolist() == [expected] * 3
    assert store.load(2) is None
    (tmp_path / "heart" / "000004.safetensors").write_bytes(b"damaged")
    with pytest.raises(SettingsError, match="000004"):
        store.load()


async def test_a_round_that_is_trained_again_begins_from_the_same_values(tmp_path: Path) -> None:
    spec, _ = make_personal_spec()
    store = PersonalStore(tmp_path)

    async def train(number: int) -> Vector:
        training = DividedTraining(NumpyTraining(WHOLE, seed=1), store)
        training.use(spec)
        request = Train(epochs=1, batch_size=1, learning_rate=None, seed=None, round=number)
        await training.train(np.zeros(8, np.float32), request)
        found = store.load()
        assert found is not None
        return found["head/bias"]

    first, again, second = await train(1), await train(1), await train(2)
    assert first.tolist() == again.tolist()
    assert np.abs(second).min() > np.abs(first).min()


class Diverging(NumpyTraining):
    """Its personal values become NaN."""

    async def train(self, base: Vector, request: Train, progress: Progress | None = None) -> tuple[Vector, Trained]:
        values, trained = await super().train(base, request, progress)
        values[PERSONAL] = np.nan
        return values, trained


async def test_what_is_not_finite_is_not_kept() -> None:
    memory = PersonalMemory()
    training = DividedTraining(Diverging(WHOLE), memory)
    training.use(make_personal_spec()[0])
    await training.train(np.zeros(8, np.float32), Train(epochs=1, batch_size=1, learning_rate=None, seed=None))
    assert memory.load() is None


@dataclass
class Stage:
    """Four institutions whose heads want something else each, and the committee, on the in-memory ledger."""

    hub: WorldHub
    scenario: Scenario
    directory: Path
    referee: Referee
    trainings: dict[str, NumpyTraining]
    steps: dict[str, list[Step]] = field(default_factory=dict)

    def agent(self, name: str, rounds: int | None = None) -> InstitutionAgent:
        steps = self.steps.setdefault(name, [])
        return InstitutionAgent(
            self.hub.ledger(name),
            self.trainings[name],
            ModelStore(self.directory / name / "models"),
            Outbox(self.directory / name / "outbox"),
            AgentSettings(task="heart", seed=5, rounds=rounds),
            report=steps.append,
            personal=self.keeper(name),
        )

    def keeper(self, name: str) -> PersonalStore:
        return PersonalStore(self.directory / name / "personal" / "heart")

    async def play(self, rounds: int) -> None:
        """Play rounds; every agent is started anew for each."""

        async def live(name: str) -> None:
            for _ in range(rounds):
                await self.agent(name, rounds=1).run()

        async with asyncio.TaskGroup() as group:
            for name in INSTITUTIONS:
                group.create_task(live(name))
            group.create_task(self.referee.run(rounds, *INSTITUTIONS))


async def make_stage(directory: Path) -> Stage:
    world = World()
    world.now_ms = time.time_ns() // 1_000_000
    hub = WorldHub(world)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys, make_personal_spec())
    await scenario.register()
    await scenario.create()
    trainings = {name: NumpyTraining(WHOLE, seed=number) for number, name in enumerate(INSTITUTIONS)}
    return Stage(hub, scenario, directory, Referee(hub, ModelStore(directory / "coordinator")), trainings)


def simulate_same(stage: Stage) -> tuple[list[Result], dict[str, DividedSite]]:
    spec, model = make_personal_spec()
    description = asyncio.run(stage.trainings["alpha"].describe())
    sites = {
        name: DividedSite(WholeNumpySite(NumpyTraining(WHOLE, seed=number)), Division.of(description, PATTERNS))
        for number, name in enumerate(INSTITUTIONS)
    }
    samples = dict.fromkeys(INSTITUTIONS, 100)
    return list(simulate(spec, model, sites, samples, seeds=dict.fromkeys(INSTITUTIONS, 5))), sites


class WholeNumpySite(NumpySite):
    def initial(self) -> Vector:
        return asyncio.run(self.training.initial())


def test_agents_that_are_restarted_keep_their_own_layers_and_arrive_at_the_simulation_s_model(tmp_path: Path) -> None:
    async def play() -> Stage:
        stage = await make_stage(tmp_path)
        await stage.play(3)
        return stage

    stage = asyncio.run(play())
    digest = asyncio.run(stage.referee.ledger.read(catalogue.MODEL.key("heart", 3))).digest
    results, sites = simulate_same(stage)
    assert results[-1].digest == digest
    kept: dict[str, Arrays] = {}
    for name, training in stage.trainings.items():
        found = stage.keeper(name).load()
        assert found is not None
        kept[name] = found
        # Three rounds of one step each, a quarter of the way to the institution's own target: nobody averaged it.
        np.testing.assert_allclose(found["head/bias"], training.target[PERSONAL] * (1 - 0.75**3), rtol=1e-5)
        simulated = sites[name]._keeper.load()
        assert simulated is not None
        assert found["head/bias"].tolist() == simulated["head/bias"].tolist()
    assert len({kept[name]["head/bias"].tobytes() for name in INSTITUTIONS}) == 4


def test_personal_values_are_in_no_update_no_chunk_and_no_model(tmp_path: Path) -> None:
    async def play() -> Stage:
        stage = await make_stage(tmp_path)
        await stage.play(1)
        return stage

    stage = asyncio.run(play())
    for name in INSTITUTIONS:
        parcel = stage.keeper(name).load()
        assert parcel is not None
        header = asyncio.run(stage.hub.ledger(name).read(catalogue.HEADER.key("heart", 1, name))).header
        assert header.dimension == 8
        for path in (tmp_path / name).rglob("*"):
            if path.is_file() and "personal" not in path.parts:
                assert parcel["head/bias"].tobytes() not in path.read_bytes()


def test_personal_layers_complete_an_exported_model(tmp_path: Path) -> None:
    stage = asyncio.run(make_stage(tmp_path))
    task = asyncio.run(stage.referee.ledger.read(catalogue.TASK.key("heart")))
    row = {
        "version": 0,
        "round": 0,
        "accepted": (),
        "digest": "0",
        "confirmed_by": (),
        "contested_by": (),
        "metrics": {},
        "held_out": {},
    }
    with pytest.raises(LedgerError, match="no personal layers of task heart"):
        read_personal(tmp_path / "alpha", task)
    stage.keeper("alpha").keep(1, {"head/bias": np.arange(3, dtype=np.float32)})
    shared = np.arange(8, dtype=np.float32)
    for personal, names in (
        ({}, ["kernel", "bias"]),
        (read_personal(tmp_path / "alpha", task), [*("kernel", "bias"), "head/bias"]),
    ):
        exported = Exported(task=task, version=0, digest="0", values=shared, rows=[row], personal=personal)
        write_arrays(exported, tmp_path / "final.npz")
        with np.load(tmp_path / "final.npz") as arrays:
            assert arrays.files == names
            assert arrays["bias"].tolist() == [[4, 5], [6, 7]]
        write_arrays(exported, tmp_path / "final.safetensors")
        manifest = manifest_of(exported.arrays)
        values = decode_model(manifest, (tmp_path / "final.safetensors").read_bytes())
        assert values.tolist() == [*shared.tolist(), *([0, 1, 2] if personal else [])]
        told = "those of one institution are" if personal else "none is"
        assert f"`head/*`; {told} in this file" in make_card(exported)


class Dry(NumpyTraining):
    """What an agent tries before it enrols: a training process, without the process."""

    def use_table(self, table: Table | None, *, tallies: bool = False) -> None:
        self.asked = (table, tallies)

    async def rehearse(self, request: Train) -> tuple[Rehearsed, Vector]:
        return Rehearsed(samples=7, loss=0.5), await self.initial()


async def test_before_enrolling_the_shared_part_is_compared_and_what_stays_is_told() -> None:
    spec, _ = make_personal_spec()
    training = cast(TrainingProcess, Dry(WHOLE))
    notes = await rehearse(training, spec, seed=1)
    assert notes[0] == "3 values are personal and stay here: head/bias"
    assert notes[1].startswith("a dry epoch on 7 samples works")
    with pytest.raises(ProtocolError, match="BFL306"):
        await rehearse(training, spec.model_copy(update={"personal": ("body/*",)}), seed=1)
