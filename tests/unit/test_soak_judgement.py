"""What of a long run counts as flat."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import soak_workload
from benchmarks.soak import classify, find_grown, read_disk, read_processes, summarise
from benchmarks.soak_judgement import BOUNDS, DESCRIPTORS, DISK, MEMORY, THREADS, Sample, compute_slope, judge
from benchmarks.soak_page import write_page

from blockfl.institution.frames import Train
from blockfl.institution.training import TrainingProcess
from blockfl.institution.workload import Workload

ROUNDS = range(10, 1001, 10)
QUIET = {MEMORY: 60_000.0, DESCRIPTORS: 20.0, THREADS: 4.0}


def sample(number: int, changes: Mapping[str, float] | None = None, name: str = "agent") -> Sample:
    return Sample(
        round=number,
        at_s=float(number),
        processes={name: {**QUIET, **(changes or {})}},
        disk_bytes={"node: blocks": 1e5 * number},
    )


def grown(samples: list[Sample]) -> list[tuple[str, str]]:
    return [(row.name, row.quantity) for row in find_grown(judge(samples))]


def test_a_slope_is_the_middle_one_and_a_single_peak_does_not_count() -> None:
    values = [3.0 * number for number in range(20)]
    values[7] = 1000.0
    assert compute_slope(range(20), values) == pytest.approx(3.0)
    assert compute_slope([5], [1.0]) == 0.0


def test_a_process_that_wobbles_is_flat() -> None:
    rng = random.Random(1)
    assert grown([sample(number, {MEMORY: 60_000 + rng.randrange(4000)}) for number in ROUNDS]) == []


@pytest.mark.parametrize("quantity", [MEMORY, DESCRIPTORS, THREADS])
def test_a_leak_in_the_second_half_is_found(quantity: str) -> None:
    leak = 1.5 * BOUNDS[quantity] / 490
    leaking = [sample(number, {quantity: QUIET[quantity] + leak * number}) for number in ROUNDS]
    assert grown(leaking) == [("agent", quantity)]
    settled = [sample(number, {quantity: QUIET[quantity] + leak * min(number, 500)}) for number in ROUNDS]
    assert grown(settled) == []


@pytest.mark.parametrize(("more", "found"), [(1.0, []), (2.0, [("agent", THREADS)])])
def test_one_thread_more_is_flat_and_two_are_not(more: float, found: list[tuple[str, str]]) -> None:
    assert grown([sample(number, {THREADS: 4.0 + more * (number > 750)}) for number in ROUNDS]) == found


@pytest.mark.parametrize(("kb", "found"), [(20, []), (30, [("node", MEMORY)])])
def test_what_is_explained_is_explained_up_to_a_pace(kb: int, found: list[tuple[str, str]]) -> None:
    assert grown([sample(number, {MEMORY: 60_000.0 + kb * number}, name="node") for number in ROUNDS]) == found


def test_a_disk_may_fill_evenly_and_not_faster_and_faster() -> None:
    samples = [sample(number) for number in ROUNDS]
    assert grown(samples) == []
    faster = [replace(one, disk_bytes={"node: blocks": 100.0 * one.round**2}) for one in samples]
    assert grown(faster) == [("node: blocks", DISK)]


def test_processes_that_are_not_there_all_the_time_are_not_judged() -> None:
    samples = [sample(number, name="node" if number % 20 else "training") for number in ROUNDS]
    assert {row.quantity for row in judge(samples)} == {DISK}


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="3 samples"):
        judge([sample(number) for number in (1, 2, 3)])


def test_this_process_has_memory_descriptors_and_threads() -> None:
    found = read_processes([("self", os.getpid()), ("gone", 2**22 + 1)])
    assert found.keys() == {"self"}
    assert all(found["self"][quantity] >= 1 for quantity in BOUNDS)


def test_files_are_counted_by_what_they_are(tmp_path: Path) -> None:
    places = ("network/node/ledger/blocks/000", "network/logs/node.log", "institutions/hungary/left.jsonl", "a.npz")
    for place in places:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(5000))
    found = read_disk(tmp_path)
    assert found.keys() == {"node: blocks", "logs", "agents: left.jsonl", "keys, settings, packages"}
    assert all(4096 <= size <= 16384 for size in found.values())
    assert classify(("aggregators", "regulator", "ab.safetensors")) == "aggregators: models"
    private = ("network", "node", "ledger", "organisations", "hungary")
    assert classify((*private, "payloads", "7f", "7fab")) == "node: payloads"
    assert classify((*private, "private.sqlite-wal")) == "node: private data"
    assert classify(("network", "node", "ledger", "state.sqlite")) == "node: state"


def test_the_page_says_what_grows() -> None:
    samples = [sample(number, {MEMORY: 60_000 + 50 * number}) for number in ROUNDS]
    rows = judge(samples)
    page = write_page(summarise(samples, 1000, "embedded", rows))
    assert "**grows: memory_kb**" in page
    assert "+50.0 kB" in page
    assert "**1000 rounds**" in page
    assert "shorter than" not in page
    short = write_page(summarise(samples[:40], 1000, "embedded", judge(samples[:40])))
    assert "**400 rounds**" in short
    assert "shorter than 1000 rounds" in short


async def test_the_training_code_learns(tmp_path: Path) -> None:
    workload = Workload(code=Path(soak_workload.__file__), data=soak_workload.write_rows(tmp_path / "rows.npz", 0))
    train = Train(epochs=1, batch_size=32, learning_rate=None, seed=1)
    async with TrainingProcess(workload, directory=tmp_path / "state") as training:
        vector = base = await training.initial()
        for _ in range(5):
            vector, _ = await training.train(vector, train)
        before, after = await training.evaluate(base), await training.evaluate(vector)
    assert before.loss is not None
    assert after.loss is not None
    assert after.loss < 0.8 * before.loss
