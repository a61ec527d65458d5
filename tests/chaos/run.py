"""One run: a consortium, its rounds, the faults of a schedule, the checks, and the verdict.

summary = await run_chaos(draw_schedule(rounds=20, seed=1, ledger="embedded"), Path("build/chaos"), print)
assert summary["lost"] == 0 and summary["broken"] == []
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from blockfl.audit.book import Book
from blockfl.audit.errors import VerificationError
from blockfl.audit.verification import VerificationReport, open_evidence, read_anchor, verify_chain, verify_opened
from blockfl.fabric.channel.block import header_hash
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.protocol import catalogue
from chaos import invariants
from chaos.crew import TASK, Crew
from chaos.injection import Injector
from chaos.invariants import RoundRecords
from chaos.observer import Observer
from chaos.schedule import Schedule
from support.federation_processes import INSTITUTIONS

Tell = Callable[[str], None]
OBSERVER: Final = "university"
EVIDENCE: Final = "evidence.blockfl"
SLACK_S: Final = 30.0
"""How much later than its last deadline a round may be published: as much as stated times may be off."""
STANDSTILL_S: Final = {"embedded": 120.0, "local": 900.0}
"""How long nothing may happen between rounds. Ordering nodes that all stand still begin anew within minutes."""
_REPORTS_S: Final = 120.0
_ALWAYS_NOT_DONE: Final = {
    "links between nodes": "their connections are reset; only those of agents and aggregators are cut or slowed",
    "clock of the network's own processes": "only agents and aggregators run under a clock that can be stepped",
}


async def run_chaos(schedule: Schedule, directory: Path, tell: Tell) -> dict[str, Any]:
    """Carry a schedule out, and return the summary.

    Args:
        schedule: The faults, the rounds and the ledger; after SIGTERM fewer rounds are summed up.
        directory: An empty one; holds the evidence afterwards, and the logs where something is broken.
        tell: Told what happens, in lines.
    """
    began = time.monotonic()
    crew = Crew(directory / "run", schedule.ledger)
    (directory / "run").mkdir()
    supervision: asyncio.Task[None] | None = None
    try:
        tell(f"bringing up a consortium on the {schedule.ledger} ledger")
        await crew.begin(schedule.rounds)
        injector = Injector(crew, schedule, tell)
        async with Ledger(crew.profile(OBSERVER)) as ledger:
            observer = Observer(
                ledger,
                injector,
                rounds=schedule.rounds,
                slack_s=SLACK_S,
                standstill_s=STANDSTILL_S[schedule.ledger],
                tell=tell,
            )
            supervision = asyncio.create_task(crew.supervise())
            with _ending_early(observer):
                await observer.watch()
            schedule = schedule.until(observer.rounds)
            await injector.finish(schedule.rounds)
            await observer.wait_for_reports(_REPORTS_S)
        evidence = await _verify(crew, observer, schedule, directory / EVIDENCE)
        observer.note(
            "every institution is at one model",
            schedule.rounds,
            [f"{name} computed another model than the published one, and ended" for name in sorted(crew.diverged)],
        )
    finally:
        await _take_down(crew, supervision, directory)
    return _summarise(schedule, crew, injector, observer, evidence) | {"seconds": round(time.monotonic() - began)}


@contextlib.contextmanager
def _ending_early(observer: Observer) -> Iterator[None]:
    """SIGTERM ends the rounds, and what there was until then is judged."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, observer.end_early)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.default_int_handler)


async def _take_down(crew: Crew, supervision: asyncio.Task[None] | None, directory: Path) -> None:
    if supervision is not None:
        supervision.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await supervision
    crew.end_agents()
    with contextlib.suppress(FileNotFoundError):
        shutil.copytree(crew.network / "logs", directory / "logs" / "network")
        shutil.copytree(crew.directory / "logs", directory / "logs" / "agents")
    await crew.end()
    shutil.rmtree(crew.directory)


async def _verify(crew: Crew, observer: Observer, schedule: Schedule, bundle: Path) -> dict[str, Any]:
    """Export the evidence, verify it without the network, and check the invariants on it; return its figures."""
    profile = crew.profile_path(OBSERVER)
    await asyncio.to_thread(crew.blockfl, "audit", "export", str(bundle), "--profile", str(profile))
    genesis = crew.profile(OBSERVER).genesis
    assert genesis is not None
    report = None
    try:
        report, book = await _read_evidence(bundle, read_anchor(Path(genesis)), observer)
    except (VerificationError, LedgerError) as error:
        observer.note("the ledger verifies offline", schedule.rounds, [str(error)])
        return {}
    observer.note("the ledger verifies offline", schedule.rounds, [str(one) for one in report.findings])
    found = book.history.read_all(catalogue.ROUNDS.below(TASK))
    rounds = [one for one in found if one.round <= schedule.rounds]
    for number, state in invariants.find_lost_rounds(rounds, schedule.rounds).items():
        observer.note("every round is published", number, [state])
    for round_ in rounds:
        expected = INSTITUTIONS if round_.round == schedule.rounds else ()
        observer.judge(collect_records(book, round_.round), expected)
    published = sum(one.state == "published" for one in rounds)
    updates = sum(len(one.accepted) for one in rounds)
    return {
        "published": published,
        "updates_accepted": updates,
        "blocks": report.blocks,
        "transactions": report.transactions,
        "codes": report.codes,
    }


async def _read_evidence(bundle: Path, anchor: bytes, observer: Observer) -> tuple[VerificationReport, Book]:
    with open_evidence([bundle]) as opened:
        chain = await asyncio.to_thread(verify_chain, opened, anchor, lambda _: None)
        report = await verify_opened(opened, chain, lambda _: None)
        there = [number for number in observer.blocks if number < opened.height]
        hashes = {number: header_hash(opened.evidence.block(number).header) for number in there}
    observer.note("no block changes", 0, invariants.find_changed_blocks(observer.blocks, hashes))
    return report, Book(chain)


def collect_records(book: Book, number: int) -> RoundRecords:
    """Return what verified evidence says of a round, with how often each update was accepted."""
    history = book.history
    round_ = history.get(catalogue.ROUND.key(TASK, number))
    version, is_published = round_.base_version + 1, round_.state == "published"
    verdicts = {}
    for name in round_.accepted:
        written = history.list_versions(catalogue.UPDATE.key(TASK, number, name))
        verdicts[name] = sum(one.state == "accepted" for one in written)
    return RoundRecords(
        round_=round_,
        updates=history.read_all(catalogue.UPDATES.below(TASK, number)),
        model=history.get(catalogue.MODEL.key(TASK, version)) if is_published else None,
        reports=history.read_all(catalogue.REPORTS.below(TASK, version)) if is_published else (),
        verdicts=verdicts,
    )


def _summarise(
    schedule: Schedule, crew: Crew, injector: Injector, observer: Observer, evidence: dict[str, Any]
) -> dict[str, Any]:
    done = [one for one in injector.strikes if not one.missed]
    return {
        "rounds": schedule.rounds,
        "lost": schedule.rounds - evidence.get("published", len(observer.published)),
        "broken": [one.as_dict() for one in observer.broken],
        "seed": schedule.seed,
        "ledger": schedule.ledger,
        "faults": dict(sorted(Counter(one.fault.label for one in done).items())),
        "missed": len(injector.strikes) - len(done),
        "not_done": crew.not_done | _ALWAYS_NOT_DONE,
        "round_s": observer.summarise(),
        "evidence": evidence,
        "restarts": dict(sorted(crew.restarts.items())),
        "endings": crew.endings,
        "schedule": [one.as_dict() for one in injector.strikes],
    }
