"""What a round may cost, what was measured, and where it goes when it is too much: a part of docs/performance.md."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.growth import MOST_MB
from benchmarks.growth_page import PROCESSORS
from benchmarks.markdown import tabulate

_SMALL, _LARGE = "10000", "1000000"
_SECURE, _DEPLOYED = "flower simulation, SecAgg+", "flower SuperLink, TLS"
_LEDGERS: Final = {"embedded": "embedded node", "local": "real Fabric"}
_LIMITS: Final = (
    # ledger, size, quantity, unit, limit
    ("embedded", _SMALL, "seconds", "s", 0.5),
    ("embedded", _LARGE, "seconds", "s", 1.0),
    ("embedded", _LARGE, "cpu_seconds", "processor-seconds", 2.5),
    ("embedded", _LARGE, "bytes_per_update", "bytes of the public ledger for each update", 28_000.0),
    ("local", _SMALL, "seconds", "s", 1.2),
    ("local", _LARGE, "seconds", "s", 3.0),
)
_COUNTS: Final = {"endorsements": 60, "evaluations": 80}
_EVENNESS: Final = 1.2
_MANY, _MANY_S = "50", 10.0
_RATE: Final = 0.8
_SHOWN: Final = 4
_FLAT: Final = 1.1
_AUDITED: Final = {"1": 300.0, "2": 600.0}
"""Transactions a second that an audit verifies, by the number of processors."""
_NEEDED: Final = """
What the missed aims would take:

- **Seconds.** No single place is hot. Half of what processes do is gRPC and asyncio, a third of the node is SQLite
  and waits for the disk; rules, records and cryptography of our own are the smaller part. Much less needs a gateway,
  a shim and a store that are not Python. On real Fabric the peers take two thirds, and nothing of ours runs in them.
- **Processes.** The same round of 10,000 parameters takes a third less processor time in three processes (Growth,
  below) than in the sixteen that organisations of their own need: the rest is switching between them. Two processors
  stand still for 20 % of it, and for 14 % of a round of 1,000,000 (`/proc/stat`). The node's endorsements and
  reads in processes of their own, each on the same files, made rounds slower, in turns of whole rounds: by 10 % with
  10,000 parameters and 4 % with 1,000,000 in one such process, by 6 to 17 % in two to seven. A third of the node's
  work left it, but a round is a chain of steps that wait for each other: what a step gains by not standing in a
  queue, a millisecond on average, it loses on the way to another process and back. With a higher priority for the
  node (nice -10) a round took as long.
- **The disk.** Without any wait for it, which is not an option, rounds took 3 and 5 % less.
- **What Python stands on.** Tried, in turns: an interpreter that was built with optimisation by profile, whose own
  benchmarks take a fifth less, at most 3 %; gRPC without threads of its own for sockets, 3 to 5 % of the processor
  time, but gRPC means to remove that way; an allocator that keeps what is freed, 2 %; larger HTTP/2 frames and
  windows, uvloop: nothing. None is worth what it asks of who runs it.
- **A peer's store.** With a million parameters a quarter of a committee peer's samples (`perf`) rewrite its
  LevelDB, which keeps payloads among the records, and a quarter unpacks blocks of it: a table's small keys
  share one with its first payload. 4 KiB put between them took a tenth off those peers, and 4 % off the round;
  that is another form of chunks.
- **A million parameters.** Each payload goes to every endorser's contract service and back over the shim, which
  Fabric's protocol demands. Readers get theirs beside the blocks: that took a third of the bytes off the shim,
  and a few hundredths off the processor-seconds, so bytes are not what costs. Judges compute a commitment for
  each update; one for a random combination of all updates of a transaction would do, and is a change of the
  protocol that needs a proof first. A sum has four bytes a value, and three would do up to 256 institutions: a fifth
  of all bytes on wires, by counting, and another form of sums.
- **Bytes.** A third of them are certificates: Fabric's envelope names each endorser and, twice, its sender in full.
  The commitment is 8 kB. Answers repeat a record that is written as well (2.5 kB). 28 kB need identities by
  reference, which Fabric has not.
- **Fifty institutions.** Each header needs a majority of all organisations, so that a committee cannot hold one back
  unseen. The endorsements for each grow with the consortium, and processor time with them.
"""


@dataclass(frozen=True, kw_only=True)
class Aim:
    """Something that is to be at most, or at least, so much.

    Attributes:
        what: In words.
        limit: What it may be.
        found: What it was.
        is_least: Whether the limit is the least that it may be, and not the most.
    """

    what: str
    limit: float
    found: float
    is_least: bool = False

    @property
    def is_reached(self) -> bool:
        """Whether it is within the limit."""
        return self.found >= self.limit if self.is_least else self.found <= self.limit

    def describe(self) -> list[str]:
        """Return it as a row: what, limit, found, and how far off that is."""
        word = "at least" if self.is_least else "at most"
        verdict = "reached" if self.is_reached else f"{abs(1 - self.limit / self.found):.0%} off"
        return [self.what, f"{word} {self.limit:,.6g}", f"{self.found:,.6g}", verdict]


def list_aims(
    summary: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]], growth: Mapping[str, Any] | None
) -> Iterator[Aim]:
    """Yield each aim of which there is a measurement."""
    yield from _list_own(summary)
    yield from _list_compared(summary)
    for name, limit in _COUNTS.items() if "4" in counts else ():
        yield Aim(what=f"{name} a round, 4 institutions", limit=limit, found=counts["4"][name])
    yield from _list_growth(growth or {})


def _list_own(summary: Mapping[str, Any]) -> Iterator[Aim]:
    for ledger, size, quantity, unit, limit in _LIMITS:
        found = summary["rounds"].get(ledger, {}).get(size, {}).get(quantity)
        if found is not None:
            yield Aim(what=f"{_LEDGERS[ledger]}, {int(size):,} parameters, {unit}", limit=limit, found=found)


def _list_compared(summary: Mapping[str, Any]) -> Iterator[Aim]:
    own = summary["rounds"].get("embedded", {}).get(_LARGE)
    if own is None:
        return
    for name, share in ((_SECURE, 1.0), (_DEPLOYED, 1 / 8)):
        other = summary["peers"].get(name, {}).get(_LARGE)
        if other is not None:
            what = f"embedded node, {int(_LARGE):,} parameters, s, beside {share:g} of {name}"
            yield Aim(what=what, limit=round(share * other["seconds"], 3), found=own["seconds"])
    moved = summary.get("moving", {}).get(_LARGE)
    if moved is not None:
        rate = round(moved["seconds"] / own["seconds"], 3)
        yield Aim(what="payload rate beside a contract that judges nothing", limit=_RATE, found=rate, is_least=True)


def _list_growth(growth: Mapping[str, Any]) -> Iterator[Aim]:
    few = growth.get("institutions", {}).get("4")
    for count, figures in growth.get("institutions", {}).items():
        for name in _COUNTS if few is not None and count != "4" else ():
            limit = round(_EVENNESS * few["for_each"][name], 1)
            yield Aim(what=f"{name} for each of {count} institutions", limit=limit, found=figures["for_each"][name])
        if count == _MANY:
            yield Aim(what=f"{count} institutions, 10,000 parameters, s", limit=_MANY_S, found=figures["seconds"])
    for size, figures in growth.get("parameters", {}).items():
        peak = max(figures["peak_mb"].values())
        yield Aim(what=f"{int(size):,} parameters, MB of the largest process", limit=MOST_MB, found=round(peak))
    for figures in growth.get("rounds", {}).values():
        ratio = round(figures["last"]["seconds"] / figures["first"]["seconds"], 2)
        what = f"the last tenth of {figures['rounds']} rounds beside the first, s a round"
        yield Aim(what=what, limit=_FLAT, found=ratio)
        for count, rate in figures["audit"]["per_second"].items():
            what = f"audit verify, transactions a second on {PROCESSORS[count]}"
            yield Aim(what=what, limit=_AUDITED[count], found=rate, is_least=True)


def describe_aims(
    summary: Mapping[str, Any], counts: Mapping[str, Mapping[str, int]], growth: Mapping[str, Any] | None
) -> str:
    """Return the part: every aim with what was measured, and, where one is missed, what uses the processors."""
    aims = list(list_aims(summary, counts, growth))
    text = "## Aims\n\n" + tabulate(["", "aim", "measured", ""], [one.describe() for one in aims])
    if all(one.is_reached for one in aims):
        return text
    return (
        text
        + "\nWhere the processor-seconds of a round go, which is where less must be done:\n\n"
        + "".join(
            f"- {int(size):,} parameters: {_describe_shares(figures['cpu_by_process'])}\n"
            for size, figures in summary["rounds"].get("embedded", {}).items()
        )
        + _NEEDED
    )


def _describe_shares(by_process: Mapping[str, float]) -> str:
    """Return the shares of the kinds of processes, the largest first: all agents are one kind."""
    kinds: dict[str, float] = {}
    for name, seconds in by_process.items():
        kind = name.split()[0].split("-")[0]
        kinds[kind] = kinds.get(kind, 0.0) + seconds
    total = sum(kinds.values()) or 1.0
    shares = sorted(kinds.items(), key=lambda row: -row[1])
    return ", ".join(f"{kind} {seconds:.2f} s ({seconds / total:.0%})" for kind, seconds in shares[:_SHOWN])
