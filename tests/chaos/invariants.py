"""The invariants: what must hold while processes are killed, stopped and starved, and disks filled.

Each function looks at records and returns what is wrong in words, nothing when all is well. None of them asks a ledger:
the same functions judge what was read while the rounds ran, what the exported evidence holds, and made-up records that
violate each of them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from blockfl.protocol.economics import Account, Standing, Supply
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.records import Model, Round, Update

Acknowledged = Mapping[tuple[int, str], str]
"""The header's digest of each update that was seen accepted, by round and organisation."""


@dataclass(frozen=True, kw_only=True)
class RoundRecords:
    """What the ledger says of one round.

    Attributes:
        round_: Its record.
        updates: Where the updates stand.
        model: The version that it made, if any.
        reports: What institutions reported of that version.
        verdicts: By organisation, how often its update was written as accepted; known from evidence only.
    """

    round_: Round
    updates: Sequence[Update]
    model: Model | None
    reports: Sequence[Metrics]
    verdicts: Mapping[str, int] | None = None


def find_lost_updates(records: RoundRecords, acknowledged: Acknowledged) -> list[str]:
    """Return which accepted updates are lost, or are others than they were when they were seen accepted."""
    round_, problems = records.round_, []
    if round_.state != "published":
        return []
    accepted = {one.organisation: one.header_digest for one in records.updates if one.state == "accepted"}
    if tuple(sorted(accepted)) != round_.accepted:
        problems.append(f"the round accepted {_name(round_.accepted)}, and {_name(accepted)} have accepted updates")
    if records.model is None:
        problems.append("the round is published and has no model")
    elif records.model.accepted != round_.accepted:
        problems.append(f"the model is of {_name(records.model.accepted)}, the round of {_name(round_.accepted)}")
    for (number, organisation), digest in sorted(acknowledged.items()):
        if number == round_.round and accepted.get(organisation) != digest:
            now = accepted.get(organisation, "no accepted update")
            problems.append(f"{organisation} had the update {digest} accepted, and the ledger has {now}")
    return problems


def find_doubled_updates(records: RoundRecords) -> list[str]:
    """Return which updates count twice: in the set, in the divisor, or by a second verdict."""
    round_, problems = records.round_, []
    if len(set(round_.accepted)) != len(round_.accepted):
        problems.append(f"an organisation is accepted twice: {_name(round_.accepted)}")
    for organisation, count in sorted((records.verdicts or {}).items()):
        if count != 1:
            problems.append(f"the update of {organisation} was accepted {count} times")
    weights = {one.organisation: one.weight for one in round_.participants}
    divisor = sum(weights.get(name, 0) for name in set(round_.accepted))
    if round_.state == "published" and (records.model is None or records.model.divisor != divisor):
        of = "nothing" if records.model is None else records.model.divisor
        problems.append(f"the accepted updates weigh {divisor}, and the model was divided by {of}")
    return problems


def find_other_models(records: RoundRecords, expected: Collection[str] = ()) -> list[str]:
    """Return which institutions arrived at another model than the published one.

    Args:
        records: The round.
        expected: Institutions that must have reported.
    """
    if records.model is None:
        return []
    problems = [
        f"{one.organisation} arrived at {one.model_digest}, published is {records.model.digest}"
        for one in records.reports
        if one.model_digest != records.model.digest
    ]
    silent = sorted(set(expected) - {one.organisation for one in records.reports})
    return problems + [f"{name} has not arrived at version {records.model.version}" for name in silent]


def find_unconserved(supply: Supply, accounts: Iterable[Account], standings: Iterable[Standing]) -> list[str]:
    """Return whether credits came from nowhere or went there."""
    held = sum(one.credits for one in accounts) + sum(one.stake for one in standings)
    return [] if held == supply.granted else [f"{supply.granted} credits were granted, {held} are there"]


def find_stuck(round_: Round, now_ms: int, slack_ms: int) -> list[str]:
    """Return whether a round is past its last deadline, or was when it was settled.

    Args:
        round_: The round.
        now_ms: Milliseconds since 1970; of a published round, when that was.
        slack_ms: How much later than its deadline it may be.
    """
    late_ms = now_ms - round_.publish_deadline_ms
    if late_ms <= slack_ms:
        return []
    return [
        f"it was {round_.state} {late_ms / 1000:.0f} s after its deadline to publish; {slack_ms / 1000:.0f} allowed"
    ]


def find_lost_rounds(rounds: Sequence[Round], expected: int) -> dict[int, str]:
    """Return the rounds that were not published, and what became of each."""
    lost = dict.fromkeys(range(1, expected + 1), "it was never opened")
    for round_ in rounds:
        lost.pop(round_.round, None)
        for problem in find_failure(round_):
            lost[round_.round] = problem
    return lost


def find_failure(round_: Round) -> list[str]:
    """Return whether a round came to an end without a model."""
    return [] if round_.state == "published" else [f"it is {round_.state} {round_.failure}".rstrip()]


def find_changed_blocks(seen: Mapping[int, bytes], chain: Mapping[int, bytes]) -> list[str]:
    """Return which blocks are not what they were when they were seen; both map a number to the header's hash."""
    return [
        f"block {number} was {was.hex()[:16]}…, and is {chain[number].hex()[:16] + '…' if number in chain else 'gone'}"
        for number, was in sorted(seen.items())
        if chain.get(number) != was
    ]


def _name(organisations: Iterable[str]) -> str:
    return ", ".join(organisations) or "nobody"
