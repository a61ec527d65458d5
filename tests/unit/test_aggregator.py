"""The committee member's process on the in-memory ledger: whole rounds, restarts at every call, takeover."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from blockfl.aggregator.process import Aggregator, AggregatorSettings
from blockfl.ledger.store import ModelStore
from blockfl.protocol import catalogue
from blockfl.protocol.records import Progress, Round, Vote
from support.federation import INSTITUTIONS
from support.scenario import Scenario, make_spec
from support.world import World
from support.world_ledger import Killed, WorldHub, WorldLedger

COMMITTEE = ("coordinator", "regulator", "university")
QUICK = AggregatorSettings(judge_patience_s=0.02, takeover_s=0.05, enrolment_patience_s=0.05)
WAIT_S = 20


class Committee:
    """A task on a world, and members' processes that can be started and killed."""

    def __init__(self, directory: Path) -> None:
        self.world = World()
        self.hub = WorldHub(self.world)
        self.scenario = Scenario(self.hub, self.world.consortium, self.world.signers, self.world.opening_keys)
        self.directory = directory
        self.reports: list[str] = []
        self._running: list[asyncio.Task[None]] = []

    def make(
        self, organisation: str, ledger: WorldLedger | None = None, settings: AggregatorSettings = QUICK
    ) -> Aggregator:
        return Aggregator(
            ledger or self.hub.ledger(organisation),
            self.world.opening_keys[organisation],
            ModelStore(self.directory / organisation),
            settings,
            self.reports.append,
        )

    def start(self, *organisations: str) -> None:
        self._running += [asyncio.create_task(self.make(organisation).run()) for organisation in organisations]

    async def wait_for_round(self, number: int, reached: Callable[[Round], bool]) -> Round:
        async def reach() -> Round:
            async with self.hub.changed:
                while True:
                    with contextlib.suppress(Exception):
                        round_ = await self.scenario.round(number)
                        if reached(round_):
                            return round_
                    await self.hub.changed.wait()

        return await asyncio.wait_for(reach(), WAIT_S)

    async def contribute(self, number: int = 1) -> None:
        """Submit and upload everybody's update."""
        for organisation in INSTITUTIONS:
            await self.scenario.submit(organisation, number)
            await self.scenario.upload(organisation, number)

    async def wait_for_votes(self, number: int, count: int) -> tuple[Vote, ...]:
        async with self.hub.changed:
            while (
                len(votes := await self.hub.ledger("university").read_all(catalogue.VOTES.below("heart", number)))
                < count
            ):
                await self.hub.changed.wait()
        return votes

    async def second_the_vote(self, number: int, digest: str = "") -> None:
        """Vote as ``regulator`` once somebody has voted: the same, or for another digest."""
        votes = await self.wait_for_votes(number, 1)
        await self.hub.ledger("regulator").publish_model("heart", number, digest or votes[0].digest)

    async def close(self) -> None:
        for task in self._running:
            task.cancel()
        for task in self._running:
            with contextlib.suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def committee(tmp_path: Path) -> AsyncIterator[Committee]:
    made = Committee(tmp_path)
    await made.scenario.prepare()
    yield made
    await made.close()


def is_open(round_: Round) -> bool:
    return round_.state == "open"


def is_failed(round_: Round) -> bool:
    return round_.state == "failed"


def is_published(round_: Round) -> bool:
    return round_.state == "published"


async def test_three_members_take_a_task_through_two_rounds(committee: Committee) -> None:
    committee.start(*COMMITTEE)
    for number in (1, 2):
        await committee.wait_for_round(number, is_open)
        for organisation in INSTITUTIONS:
            await committee.scenario.submit(organisation, number)
            await committee.scenario.upload(organisation, number)
        round_ = await committee.wait_for_round(number, is_published)
        assert round_.accepted == INSTITUTIONS
    assert (await committee.scenario.model(2)).accepted == INSTITUTIONS


async def test_a_member_keeps_the_first_model_and_the_last_two(committee: Committee) -> None:
    committee.start("coordinator", "regulator")
    for number in (1, 2, 3):
        await committee.wait_for_round(number, is_open)
        await committee.contribute(number)
        await committee.wait_for_round(number, is_published)
    await committee.wait_for_round(4, is_open)
    digests = [(await committee.scenario.model(version)).digest for version in (0, 2, 3)]
    for member in ("coordinator", "regulator"):
        assert {path.stem for path in (committee.directory / member).iterdir()} == set(digests)


async def test_a_member_that_is_killed_before_or_after_any_call_goes_on_where_the_ledger_stands(
    committee: Committee,
) -> None:
    await committee.scenario.open(1)
    for organisation in INSTITUTIONS:
        await committee.scenario.submit(organisation)
        await committee.scenario.upload(organisation)
    second = asyncio.create_task(committee.second_the_vote(1))
    lives = 0
    published = asyncio.create_task(committee.wait_for_round(1, is_published))
    while not published.done():
        ledger = committee.hub.ledger("coordinator")
        # Each life makes one call more that takes effect, and dies once before and once after it.
        ledger.kill_before, ledger.kill_after = (lives // 2, None) if lives % 2 else (None, lives // 2)
        running = asyncio.create_task(committee.make("coordinator", ledger).run())
        await asyncio.wait((running, published), timeout=WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        with contextlib.suppress(Killed, asyncio.CancelledError):
            await running
        lives += 1
        assert lives < 200, "no progress"
    await second
    assert lives > 20, "the process must have died at many places"
    assert (await committee.scenario.round(1)).accepted == INSTITUTIONS


async def test_another_member_opens_judges_closes_and_publishes_when_the_aggregator_is_away(
    committee: Committee,
) -> None:
    committee.start("regulator", "university")
    await committee.wait_for_round(1, is_open)
    await committee.contribute()
    await committee.wait_for_round(1, is_published)
    model = await committee.scenario.model(1)
    assert (model.summed_by in model.voters, model.voters) == (True, ("regulator", "university"))


async def test_every_member_votes_for_what_it_derives_itself_and_one_that_lies_first_changes_nothing(
    committee: Committee,
) -> None:
    await committee.scenario.open()
    await committee.scenario.contribute()
    await committee.scenario.close()
    await committee.scenario.attest()
    await committee.scenario.vote("regulator", "f" * 64)
    committee.start("coordinator", "university")
    await committee.wait_for_round(1, is_published)
    assert (await committee.scenario.model(1)).voters == ("coordinator", "university")


async def test_a_member_whose_vote_was_not_the_last_tells_of_the_version_all_the_same(committee: Committee) -> None:
    committee.start("coordinator")
    await committee.wait_for_round(1, is_open)
    await committee.contribute()
    await committee.second_the_vote(1)
    await committee.wait_for_round(2, is_open)
    said = [report for report in committee.reports if "voted for" in report or "published" in report]
    assert [report.split(": ")[1].split()[0] for report in said] == ["voted", "published"]


async def test_a_round_that_is_not_published_in_time_is_given_up_and_the_next_opens(committee: Committee) -> None:
    """Two of three members vote for different models and the third is away: no version can come of it."""
    committee.world.now_ms = time.time_ns() // 1_000_000 - 3_600_000
    committee.start("coordinator")
    await committee.wait_for_round(1, is_open)
    await committee.contribute()
    await committee.second_the_vote(1, "f" * 64)
    assert (await committee.scenario.round(1)).state == "closed"
    committee.world.now_ms = (await committee.scenario.round(1)).publish_deadline_ms + 1
    await committee.scenario.ledger.submit("coordinator", "Grant", "wake", "alpha", "1")  # an event that wakes it
    failed = await committee.wait_for_round(1, is_failed)
    assert failed.failure == "abandoned"
    second = await committee.wait_for_round(2, is_open)
    assert (second.base_version, second.base_digest) == (failed.base_version, failed.base_digest)


async def test_a_round_is_not_given_up_before_the_slack_for_differing_clocks_is_over(committee: Committee) -> None:
    spec = committee.scenario.spec.deadlines
    since_ms = 1000 * (spec.submit_s + spec.judge_s + spec.publish_s)
    committee.world.now_ms = time.time_ns() // 1_000_000 - since_ms - 10_000
    await committee.scenario.open()
    await committee.scenario.contribute()
    await committee.scenario.close()
    await committee.scenario.attest()
    await committee.scenario.vote("regulator", "f" * 64)
    committee.world.now_ms = (await committee.scenario.round(1)).publish_deadline_ms + 1
    ledger = committee.hub.ledger("coordinator")
    running = asyncio.create_task(committee.make("coordinator", ledger).run())
    await committee.wait_for_votes(1, 2)
    assert "AbandonRound" not in ledger.calls
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_what_is_wrong_with_one_task_does_not_stop_another(committee: Committee) -> None:
    """A version that two of the committee forged: nobody votes on what is built on it, all go on with another task."""
    forged = committee.scenario
    await forged.open()
    await forged.contribute()
    await forged.close()
    await forged.attest()
    for member in ("regulator", "university"):
        await forged.vote(member, "f" * 64)
    await forged.disclose("regulator", "f" * 64)
    await forged.open(2)
    await forged.contribute(number=2)
    await forged.close(2)
    await forged.attest(2)
    world = committee.world
    other = Scenario(committee.hub, world.consortium, world.signers, world.opening_keys, make_spec("lungs"))
    await other.create()
    await other.enrol()
    committee.start("coordinator")

    async def is_opened() -> None:
        async with committee.hub.changed:
            while not (await other.progress()).round:
                await committee.hub.changed.wait()

    await asyncio.wait_for(is_opened(), WAIT_S)
    assert any("BFL503" in report for report in committee.reports)
    assert await committee.hub.ledger("coordinator").read_all(catalogue.VOTES.below("heart", 2)) == ()


async def test_the_first_round_waits_for_everybody_only_for_a_while(tmp_path: Path) -> None:
    committee = Committee(tmp_path)
    await committee.scenario.register()
    await committee.scenario.create()
    await committee.scenario.enrol(*INSTITUTIONS[:3])
    committee.start("coordinator")
    round_ = await committee.wait_for_round(1, is_open)
    assert tuple(part.organisation for part in round_.participants) == INSTITUTIONS[:3]
    await committee.close()


async def test_an_update_is_not_judged_before_all_of_it_is_there(committee: Committee) -> None:
    committee.start(*COMMITTEE)
    await committee.wait_for_round(1, is_open)
    for organisation in INSTITUTIONS:
        await committee.scenario.submit(organisation)
    for organisation in INSTITUTIONS[1:]:
        await committee.scenario.upload(organisation)

    async def others_are_judged() -> None:
        async with committee.hub.changed:
            while not all([(await committee.scenario.update(one)).state == "accepted" for one in INSTITUTIONS[1:]]):
                await committee.hub.changed.wait()

    await asyncio.wait_for(others_are_judged(), WAIT_S)
    assert (await committee.scenario.update(INSTITUTIONS[0])).state == "submitted"
    await committee.scenario.upload(INSTITUTIONS[0])
    assert (await committee.wait_for_round(1, is_published)).accepted == INSTITUTIONS


async def test_the_process_ends_when_every_task_is_complete_and_it_is_told_to(tmp_path: Path) -> None:
    committee = Committee(tmp_path)
    await committee.scenario.prepare()
    settings = dataclasses.replace(QUICK, until_complete=True)
    running = asyncio.create_task(committee.make("coordinator", settings=settings).run())
    committee.start("regulator")
    for number in range(1, committee.scenario.spec.rounds + 1):
        await committee.wait_for_round(number, is_open)
        for organisation in INSTITUTIONS:
            await committee.scenario.submit(organisation, number)
            await committee.scenario.upload(organisation, number)
        await committee.wait_for_round(number, is_published)
    await asyncio.wait_for(running, WAIT_S)
    await committee.close()
    assert (await committee.scenario.progress()).version == committee.scenario.spec.rounds


async def test_an_organisation_outside_the_committee_is_told_so(committee: Committee) -> None:
    reports: list[str] = []
    key = committee.world.opening_keys["coordinator"]
    ledger = committee.hub.ledger(INSTITUTIONS[0])
    aggregator = Aggregator(ledger, key, ModelStore(committee.directory / "x"), QUICK, reports.append)
    running = asyncio.create_task(aggregator.run())
    while not reports:
        await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert "is not in the committee" in reports[0]


async def test_while_the_ledger_does_not_answer_the_process_says_so_and_goes_on_afterwards(
    committee: Committee,
) -> None:
    ledger = committee.hub.ledger("coordinator")
    ledger.unreachable = True
    running = asyncio.create_task(committee.make("coordinator", ledger).run())
    while not committee.reports:
        await asyncio.sleep(0)
    assert "connection refused" in committee.reports[0]
    ledger.unreachable = False
    await committee.wait_for_round(1, is_open)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_no_task_by_the_name_is_waited_for(committee: Committee) -> None:
    settings = AggregatorSettings(tasks=("another",), until_complete=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(committee.make("coordinator", settings=settings).run(), 0.2)


def add_unreadable(committee: Committee, name: str = "evil") -> None:
    """Put a task on the ledger whose record nobody can decode; it comes before the other."""
    committee.world.force("", f"task/{name}", b"{}")
    progress = Progress(task=name, round=0, version=0, model_digest="0" * 64)
    committee.world.force("", f"progress/{name}", progress.encode())


async def test_a_task_that_cannot_be_read_is_named_once_and_the_others_go_on(committee: Committee) -> None:
    add_unreadable(committee)
    ledger = committee.hub.ledger("coordinator")
    running = asyncio.create_task(committee.make("coordinator", ledger).run())
    await committee.wait_for_round(1, is_open)
    await committee.contribute()
    await committee.second_the_vote(1)
    await committee.wait_for_round(2, is_open)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    (said,) = [line for line in committee.reports if "evil" in line]
    assert said.startswith("task evil: left alone, for its record cannot be read; create it under another name (BFL301")
    assert ledger.calls.count("ReadTask") == 2
    assert not [line for line in committee.reports if line.startswith("waiting")]


async def test_whoever_was_told_a_task_reads_no_other(committee: Committee) -> None:
    add_unreadable(committee)
    ledger = committee.hub.ledger("coordinator")
    settings = dataclasses.replace(QUICK, tasks=("heart",))
    running = asyncio.create_task(committee.make("coordinator", ledger, settings).run())
    await committee.wait_for_round(1, is_open)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert ledger.calls.count("ReadTask") == 1
    assert "ListProgress" not in ledger.calls
    assert not [line for line in committee.reports if "evil" in line]


async def test_whoever_was_told_a_task_that_cannot_be_read_says_so_and_does_the_others(committee: Committee) -> None:
    add_unreadable(committee)
    settings = dataclasses.replace(QUICK, tasks=("evil", "heart"))
    running = asyncio.create_task(committee.make("coordinator", settings=settings).run())
    await committee.wait_for_round(1, is_open)
    while not committee.reports or not any(line.startswith("waiting: BFL301 Task") for line in committee.reports):
        await asyncio.sleep(0)
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
