"""What an institution checks of its own update before it signs: every rule about values that the committee applies.

An update over a bound is shortened before. One that is too short, or points the wrong way, is what training gave:
sending it would be a rejection on record. So the agent skips the round, and tells the institution why in exact numbers,
which only the institution may see.
"""

import asyncio

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.transfer import fetch_blob
from blockfl.protocol.catalogue import MODEL
from blockfl.protocol.norms import Integers
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Participant, Round
from blockfl.protocol.scoring import decode_values
from blockfl.protocol.task import Task
from blockfl.protocol.value_rules import VALUE_RULES, Candidate


async def find_refusal(ledger: Ledger, task: Task, round_: Round, part: Participant, values: Values) -> str | None:
    """Return why the committee would reject an update, and what the institution can do; None if it would not.

    Args:
        ledger: Where the last global update is.
        task: The task.
        round_: The open round.
        part: The institution's part in it.
        values: The quantised update, int16 of shape (d,).

    Raises:
        LedgerError: The last global update cannot be read.
    """
    last_sum = await _fetch_last_sum(ledger, task, round_)
    # The referee's update is secret until the round is judged: nobody else can compare with it.
    candidate = Candidate.of(round_, values, weight=part.weight, last_sum=last_sum, reference=None)
    return await asyncio.to_thread(explain_refusal, candidate)


async def _fetch_last_sum(ledger: Ledger, task: Task, round_: Round) -> Integers | None:
    if round_.norms is None or not round_.norms.needs_last_sum:
        return None
    model = await ledger.read(MODEL.key(task.spec.task, round_.base_version))
    if model.sum is None:
        raise LedgerError(f"task {task.spec.task}: version {model.version} has no sum on the ledger")
    return decode_values(await fetch_blob(ledger, task.spec.task, model.sum), task.spec.manifest.dimension)


def explain_refusal(candidate: Candidate) -> str | None:
    """Return the first rule that values break, in exact numbers for the institution alone; None if they break none."""
    for rule in VALUE_RULES:
        if rule.check(candidate) is not None:
            return f"{rule.code.identifier} {rule.explain(candidate)}"
    return None
