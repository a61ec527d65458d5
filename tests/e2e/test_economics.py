"""Twelve rounds of real processes with an honest, a free-riding, a norm-breaking, an equivocating, a vanishing one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from examples.port_range import reserve_ports

from blockfl.ledger.client import Ledger
from blockfl.network.description import Description
from blockfl.network.organisation import Organisation, Ports
from blockfl.protocol import catalogue
from blockfl.protocol.economics import TREASURY, Economics, Score, Standing
from blockfl.protocol.records import Enrolment, Round
from blockfl.protocol.settlement import Facts
from blockfl.protocol.task import TaskSpec
from reference import economics as reference
from support.federation_processes import PORTS, FederationProcesses

TASK, DIMENSION, ROUNDS = "behaviours", 500, 12
POOL, ENDOWMENT = 1_000_000, 20_000
# Whoever is absent makes the others wait until the deadline.
SUBMIT_S, WAIT_S = 60, 1500
HONEST, RIDER, BREAKER, VANISHER, EQUIVOCATOR = "cleveland", "hungary", "longbeach", "switzerland", "zurich"
ZEROS, SCALED, ABSENT, EQUIVOCATES = tuple(range(1, ROUNDS + 1)), (2, 7), (4, 5), (9,)
MISCONDUCT = {
    RIDER: ("zeros", ZEROS),
    BREAKER: ("scaled", SCALED),
    VANISHER: ("absent", ABSENT),
    EQUIVOCATOR: ("equivocates", EQUIVOCATES),
}


@dataclass(frozen=True, kw_only=True)
class Books:
    """Who holds what: free credits, stakes, and the treasury."""

    free: dict[str, int]
    stakes: dict[str, int]
    treasury: int

    @property
    def total(self) -> int:
        return sum(self.free.values()) + sum(self.stakes.values()) + self.treasury


def describe_consortium(base_port: int) -> Description:
    """The default consortium and a fifth institution, so that any two may fail in a round."""
    default = Description.load_default(base_port)
    fifth = Organisation(name=EQUIVOCATOR, roles=["institution"], ports=Ports.from_base(base_port + PORTS))
    return default.model_copy(update={"organisations": [*default.organisations, fifth]})


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[FederationProcesses]:
    """Five institutions after twelve settled rounds."""
    base_port = reserve_ports(PORTS + 10)
    directory = tmp_path_factory.mktemp("economics")
    running = FederationProcesses(directory, base_port, ledger_kind, describe_consortium(base_port))
    try:
        running.up()
        running.start_aggregators()
        play(running)
        yield running
    finally:
        running.down()


def play(federation: FederationProcesses) -> None:
    options = ["--economics", "default", "--submit-seconds", str(SUBMIT_S)]
    federation.create_task(TASK, dimension=DIMENSION, rounds=ROUNDS, options=options)
    coordinator = ("--profile", str(federation.profile_path("coordinator")))
    federation.blockfl("task", "grant", "pool", TREASURY, str(POOL), *coordinator)
    for name in federation.institutions:
        federation.blockfl("task", "grant", f"start-{name}", name, str(ENDOWMENT), *coordinator)
    for name in federation.institutions:
        kind, numbers = MISCONDUCT.get(name, ("", ()))
        misbehave = ["--misbehave", f"{kind}:{','.join(map(str, numbers))}"] if kind else []
        federation.start_institution(name, TASK, dimension=DIMENSION, options=misbehave)
    federation.wait_for_institutions(TASK, WAIT_S)
    # Agents end with the last model; that round is settled after it.
    asyncio.run(read_grants(federation))


async def read_grants(federation: FederationProcesses) -> dict[str, int]:
    """Return what was granted to whom, from the events of the whole ledger until the last round is settled."""
    granted: dict[str, int] = {}
    async with asyncio.timeout(WAIT_S), Ledger(federation.profile("university")) as ledger:
        async for event in ledger.events(start_block=0):
            if event.name == "CreditsGranted":
                amount = int(event.notice.detail.split()[0])
                granted[event.notice.organisation] = granted.get(event.notice.organisation, 0) + amount
            if event.name in ("RoundSettled", "RoundFailed") and event.notice.round == ROUNDS:
                return granted
    raise AssertionError("events have no end")


async def read_facts(ledger: Ledger, spec: TaskSpec, round_: Round) -> Facts:
    """The public records that a round's settlement follows from."""
    number, version = round_.round, round_.base_version
    return Facts(
        spec=spec,
        round_=round_,
        updates={one.organisation: one for one in await ledger.read_all(catalogue.UPDATES.below(TASK, number))},
        equivocators=tuple(
            one.organisation for one in await ledger.read_all(catalogue.EQUIVOCATIONS.below(TASK, number))
        ),
        score=await ledger.read(catalogue.SCORE.key(TASK, number)),
        model=await ledger.read(catalogue.MODEL.key(TASK, version + 1)),
        base=await ledger.read(catalogue.MODEL.key(TASK, version)) if version else None,
        reports=await ledger.read_all(catalogue.REPORTS.below(TASK, version)) if version else (),
    )


def enter(policy: Economics, spec: TaskSpec, enrolment: Enrolment) -> Standing:
    required = policy.stake_base + min(enrolment.samples, spec.samples_cap) * policy.stake_per_sample
    return Standing(
        task=TASK,
        organisation=enrolment.organisation,
        required=required,
        stake=required,
        reputation=500,
        debt=0,
        absences=0,
        suspended_until=0,
        earned=0,
        slashed=0,
    )


def move_on(standing: Standing, round_: Round, score: Score, stake: int) -> Standing:
    """Return what a participant takes into its next round: stake, debt, and absences in a row."""
    name, debt, absences = standing.organisation, standing.debt, 0
    if name in round_.accepted:
        (points,) = (one.points for one in score.credits if one.organisation == name)
        debt = min(5000, max(0, debt - points))
    elif name in round_.absent:
        absences = standing.absences + 1
    elif name in round_.unjudged:
        absences = standing.absences
    return standing.model_copy(update={"stake": stake, "debt": debt, "absences": absences})


async def compute_books(federation: FederationProcesses) -> list[Books]:
    """Return the books after every round as the naive reference keeps them, from the public ledger alone."""
    granted = await read_grants(federation)
    books = []
    async with Ledger(federation.profile("university")) as ledger:
        spec = (await ledger.read(catalogue.TASK.key(TASK))).spec
        assert spec.economics is not None
        treasury = granted.pop(TREASURY)
        free = {one.organisation: 0 for one in (await ledger.read(catalogue.CONSORTIUM.key())).members} | granted
        standings = {
            one.organisation: enter(spec.economics, spec, one)
            for one in await ledger.read_all(catalogue.ENROLMENTS.below(TASK))
        }
        for name, standing in standings.items():
            free[name] -= standing.stake
        for round_ in await ledger.read_all(catalogue.ROUNDS.below(TASK)):
            facts = await read_facts(ledger, spec, round_)
            free, stakes, treasury = reference.settle(facts, standings, treasury, free)
            for part in round_.participants:
                name = part.organisation
                standings[name] = move_on(standings[name], round_, facts.score, stakes[name])
            books.append(Books(free=free, stakes=stakes, treasury=treasury))
    return books


async def read_books(federation: FederationProcesses) -> tuple[Books, int]:
    """Return the books on the ledger, and how much was ever granted."""
    async with Ledger(federation.profile("university")) as ledger:
        names = [one.organisation for one in (await ledger.read(catalogue.CONSORTIUM.key())).members]
        books = Books(
            free={name: (await ledger.read(catalogue.ACCOUNT.key(name))).credits for name in names},
            stakes={one.organisation: one.stake for one in await ledger.read_all(catalogue.STANDINGS.below(TASK))},
            treasury=(await ledger.read(catalogue.ACCOUNT.key(TREASURY))).credits,
        )
        return books, (await ledger.read(catalogue.SUPPLY.key())).granted


@pytest.mark.slow
async def test_every_balance_is_what_the_reference_computes_from_the_public_ledger(
    federation: FederationProcesses,
) -> None:
    expected = await compute_books(federation)
    found, granted = await read_books(federation)
    assert len(expected) == ROUNDS
    assert found == expected[-1]
    assert granted == POOL + ENDOWMENT * len(federation.institutions)
    assert {one.total for one in expected} == {found.total} == {granted}
    async with Ledger(federation.profile("university")) as ledger:
        for settlement in await ledger.read_all(catalogue.SETTLEMENTS.below(TASK)):
            books = expected[settlement.round - 1]
            assert settlement.treasury == books.treasury
            for one in settlement.outcomes:
                assert one.standing.stake == books.stakes[one.organisation], (settlement.round, one)


@pytest.mark.slow
async def test_honest_work_is_paid_and_every_misconduct_found(federation: FederationProcesses) -> None:
    async with Ledger(federation.profile("university")) as ledger:
        outcomes = {
            (one.organisation, settlement.round): one
            for settlement in await ledger.read_all(catalogue.SETTLEMENTS.below(TASK))
            for one in settlement.outcomes
        }
    assert sum(outcomes[HONEST, number].reward for number in range(1, ROUNDS + 1)) > 0
    assert sum(outcomes[RIDER, number].reward for number in ZEROS) == 0
    assert {outcomes[BREAKER, number].code for number in SCALED} <= {"BFL416", "BFL417"}
    assert [outcomes[VANISHER, number].verdict for number in ABSENT] == ["absent"] * len(ABSENT)
    assert outcomes[VANISHER, ABSENT[1]].penalty == 2 * outcomes[VANISHER, ABSENT[0]].penalty > 0
    (number,) = EQUIVOCATES
    assert outcomes[EQUIVOCATOR, number].code == "BFL408"
    assert outcomes[EQUIVOCATOR, number].standing.stake == 0
    assert (EQUIVOCATOR, number + 1) not in outcomes, "whoever has no stake left takes no part"


@pytest.mark.slow
async def test_the_commands_and_the_auditor_agree_with_the_reference(federation: FederationProcesses) -> None:
    expected = (await compute_books(federation))[-1]
    shown = await asyncio.to_thread(federation.query, "task", "economics", TASK)
    assert shown["treasury"] == expected.treasury
    assert {row["organisation"]: row["stake"] for row in shown["standings"]} == expected.stakes
    for row in shown["standings"]:
        assert row["credits"] == expected.free[row["organisation"]]
    for name in federation.institutions:
        balance = await asyncio.to_thread(federation.query, "institution", "balance", organisation=name)
        assert balance["credits"] == expected.free[name]
        assert balance["stakes"][TASK]["stake"] == expected.stakes[name]
    report = await asyncio.to_thread(federation.query, "audit", "verify")
    assert report["verified"] is True
