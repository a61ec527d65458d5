"""Faults strike real processes at their moment, are undone, and what ended is started again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from blockfl.ledger.errors import LedgerError
from chaos import crew as crews
from chaos import injection
from chaos.crew import Crew, find_clock_library
from chaos.injection import Injector
from chaos.observer import Observer
from chaos.schedule import Fault, Kind, Schedule, Target

AGENT = "institution-hungary-chaos"
# Under libfaketime time.sleep() fails where the monotonic clock is left alone; nothing that is struck uses it.
SLEEP = ["-c", "import threading; threading.Event().wait(600)"]
CLOCK = [
    "-c",
    "import threading, time\nwhile not threading.Event().wait(0.1): print(int(time.time()), flush=True)",
]
WAIT_S = 20


def make_fault(kind: Kind, target: Target = "agent", *, number: int = 1, lasts_ms: int = 0, step_s: int = 0) -> Fault:
    organisation = "hungary" if target == "agent" else ""
    return Fault(
        round=number,
        at="RoundOpened",
        after_ms=0,
        kind=kind,
        target=target,
        organisation=organisation,
        lasts_ms=lasts_ms,
        step_s=step_s,
    )


def make_injector(crew: Crew, *faults: Fault) -> Injector:
    schedule = Schedule(ledger="embedded", seed=0, rounds=9, faults=faults)
    return Injector(crew, schedule, lambda _: None)


@pytest.fixture
async def crew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crew]:
    monkeypatch.setattr(crews, "_RESTART_S", 0.0)
    made = Crew(tmp_path, "embedded")
    supervision = asyncio.create_task(made.supervise())
    try:
        yield made
    finally:
        supervision.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervision
        for name in made.agents():
            made.signal(name, signal.SIGCONT)
        made.end_agents()


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.05)


def find_pid(crew: Crew, name: str = AGENT) -> int:
    pid = crew._children[name].pid
    assert isinstance(pid, int)
    return pid


async def test_a_killed_agent_is_started_again(crew: Crew) -> None:
    crew.start(AGENT, SLEEP)
    first = find_pid(crew)
    injector = make_injector(crew, make_fault("kill"))
    injector.happened("RoundOpened", 1)
    await injector.finish()
    await wait_until(lambda: find_pid(crew) != first)
    (strike,) = injector.strikes
    assert (strike.hit, strike.missed) == ((AGENT,), "")
    assert crew.restarts == {AGENT: 1}
    assert crew.endings == [], "the harness killed it: that is no ending of its own"


async def test_an_agent_that_ends_by_itself_is_started_again_and_told_of(crew: Crew) -> None:
    crew.start(AGENT, ["-c", "raise SystemExit('a bug')"])
    await wait_until(lambda: crew.restarts[AGENT] > 0)
    assert crew.endings[0] == f"{AGENT} ended with 1: a bug"


async def test_an_agent_that_has_had_all_its_rounds_is_left_alone(crew: Crew) -> None:
    crew.start(AGENT, ["-c", "pass"])
    await wait_until(crew.are_done)
    await asyncio.sleep(3 * crews._LOOK_S)
    assert not crew.restarts


async def test_an_agent_that_finds_another_model_is_remembered(crew: Crew) -> None:
    crew.start(AGENT, ["-c", "raise SystemExit('blockfl.institution.errors.DivergenceError: another model')"])
    await wait_until(lambda: crew.diverged == {"hungary"})


async def test_a_paused_agent_stands_still_and_goes_on(crew: Crew) -> None:
    crew.start(AGENT, SLEEP)
    process = psutil.Process(find_pid(crew))
    injector = make_injector(crew, make_fault("pause", lasts_ms=1000))
    injector.happened("RoundOpened", 1)
    await wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
    await injector.finish()
    assert process.status() != psutil.STATUS_STOPPED
    assert crew.running(AGENT)


async def test_processors_are_busy_until_the_fault_is_over(crew: Crew) -> None:
    injector = make_injector(crew, make_fault("starve", "machine", lasts_ms=1000))
    before = set(psutil.Process().children())
    injector.happened("RoundOpened", 1)
    await wait_until(lambda: bool(set(psutil.Process().children()) - before))
    await injector.finish()
    assert set(psutil.Process().children()) <= before


async def test_a_step_moves_the_clock_of_one_process_and_is_taken_back(crew: Crew) -> None:
    if find_clock_library() is None:
        pytest.skip("libfaketime is not installed")
    crew.start(AGENT, CLOCK)

    def find_offset() -> float:
        said = crew.log(AGENT).splitlines()
        return int(said[-1]) - time.time() if said else 0.0

    injector = make_injector(crew, make_fault("step", lasts_ms=4000, step_s=3600))
    injector.happened("RoundOpened", 1)
    await wait_until(lambda: 3590 < find_offset() < 3610)
    await injector.finish()
    await wait_until(lambda: abs(find_offset()) < 10)


async def test_a_full_disk_is_full_until_the_fault_is_over(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    crew.start(AGENT, SLEEP)
    crew._mount_disks()
    try:
        if "fill" in crew.not_done:
            pytest.skip(crew.not_done["fill"])
        disk = crew.disk_of("agent", "hungary")
        injector = make_injector(crew, make_fault("fill", lasts_ms=1000))
        injector.happened("RoundOpened", 1)
        await wait_until(lambda: psutil.disk_usage(str(disk)).free == 0)
        await injector.finish()
        assert psutil.disk_usage(str(disk)).free > 0
    finally:
        crew.down()


async def test_a_disk_that_two_faults_fill_is_free_after_both(crew: Crew) -> None:
    crew.start(AGENT, SLEEP)
    crew.disk_of("agent", "hungary").mkdir(parents=True)
    ballast = crew.disk_of("agent", "hungary") / "ballast"

    def fill(directory: Path) -> Path:
        ballast.write_bytes(b"all of it")
        return ballast

    faults = [make_fault("fill", lasts_ms=200), make_fault("fill", lasts_ms=400)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(injection, "fill", fill)
        injector = make_injector(crew, *faults)
        injector.happened("RoundOpened", 1)
        await injector.finish()
    assert [one.missed for one in injector.strikes] == ["", ""]
    assert not ballast.exists()


async def test_a_fault_whose_moment_passed_unseen_is_missed_and_said_to_be(crew: Crew) -> None:
    crew.start(AGENT, SLEEP)
    injector = make_injector(crew, make_fault("kill"), make_fault("kill", number=2), make_fault("kill", number=9))
    injector.happened("RoundOpened", 2)
    await injector.finish()
    assert [(one.fault.round, one.missed) for one in injector.strikes] == [
        (1, "its moment was not seen before the next round"),
        (9, "its moment never came"),
        (2, ""),
    ]


async def test_a_fault_that_this_machine_cannot_do_is_missed_with_the_reason(crew: Crew) -> None:
    crew.start(AGENT, SLEEP)
    crew.not_done["kill"] = "nobody may kill here"
    injector = make_injector(crew, make_fault("kill"))
    injector.happened("RoundOpened", 1)
    await injector.finish()
    assert [one.missed for one in injector.strikes] == ["nobody may kill here"]
    assert crew.running(AGENT)


async def test_a_fault_strikes_nothing_where_nothing_runs(crew: Crew) -> None:
    injector = make_injector(crew, make_fault("kill", "node"))
    injector.happened("RoundOpened", 1)
    await injector.finish()
    assert [one.missed for one in injector.strikes] == ["nothing of it ran at that moment"]


async def test_a_leader_that_nobody_tells_of_is_missed(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_leader() -> str:
        raise LedgerError("the peer does not answer")

    monkeypatch.setattr(crew, "find_leader", find_leader)
    fault = Fault(round=1, at="RoundOpened", after_ms=0, kind="kill", target="leader")
    injector = Injector(crew, Schedule(ledger="local", seed=0, rounds=9, faults=(fault,)), lambda _: None)
    injector.happened("RoundOpened", 1)
    await injector.finish()
    assert [one.missed for one in injector.strikes] == ["nothing of it ran at that moment"]


async def test_a_run_that_is_ended_early_counts_what_was_published_until_then(crew: Crew) -> None:
    injector = make_injector(crew, make_fault("kill", number=3), make_fault("kill", number=9))
    ledger: Any = SilentLedger()
    observer = Observer(ledger, injector, rounds=9, slack_s=1.0, standstill_s=60.0, tell=lambda _: None)
    watching = asyncio.create_task(observer.watch())
    await asyncio.sleep(0)
    observer.published |= {1, 2, 3}
    observer.end_early()
    async with asyncio.timeout(WAIT_S):
        await watching
        await injector.finish(observer.rounds)
    assert observer.rounds == 3
    assert [(one.fault.round, one.missed) for one in injector.strikes] == [(3, "its moment never came")]


class SilentLedger:
    """Nothing happens on it."""

    async def events(self, **_: object) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield
