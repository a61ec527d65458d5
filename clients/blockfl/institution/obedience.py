"""What an institution checks of its own update before it signs: the rules that clipping cannot make it keep.

An update over a bound is shortened. One that is too short, or points the wrong way, is what training gave: sending it
would be a rejection on record, so the round is skipped, and the institution is told why in exact numbers, which only
it may see.
"""

import asyncio
from math import ldexp, sqrt

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.transfer import fetch_blob
from blockfl.protocol.catalogue import MODEL
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.limits import RoundNorms
from blockfl.protocol.norms import Norms, Reference, check_rules, compute_dot, compute_norms, compute_square
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Participant, Round
from blockfl.protocol.scoring import decode_values
from blockfl.protocol.task import Task


async def check_obeyed(ledger: Ledger, task: Task, round_: Round, part: Participant, values: Values) -> None:
    """Check an update against the round's further norm rules.

    Args:
        ledger: Where the last global update is.
        task: The task.
        round_: The open round.
        part: The institution's part in it.
        values: The quantised update, int16 of shape (d,).

    Raises:
        ProtocolError: BFL419, BFL420 or BFL421, with what the institution can do.
        LedgerError: The last global update cannot be read.
    """
    if round_.norms is None:
        return
    trained = task.spec.manifest.trained
    reference = await _fetch_reference(ledger, task, round_)
    if reference is not None:
        reference = reference[:trained]
    await asyncio.to_thread(_check, values[:trained], part.weight, round_, round_.norms, reference)


async def _fetch_reference(ledger: Ledger, task: Task, round_: Round) -> Reference | None:
    if round_.norms is None or round_.norms.minimum_cosine_micro is None:
        return None
    model = await ledger.read(MODEL.key(task.spec.task, round_.base_version))
    if model.sum is None:
        raise LedgerError(f"task {task.spec.task}: version {model.version} has no sum on the ledger")
    return decode_values(await fetch_blob(ledger, task.spec.task, model.sum), task.spec.manifest.dimension)


def _check(values: Values, weight: int, round_: Round, rules: RoundNorms, reference: Reference | None) -> None:
    norms = compute_norms(values)
    try:
        check_rules(values, norms, weight, rules, reference)
    except ProtocolError as error:
        if error.code is Code.NORM_MINIMUM:
            raise ProtocolError(error.code, _explain_norm(norms, weight, round_.scale, rules)) from error
        if error.code is Code.COSINE and reference is not None:
            raise ProtocolError(error.code, _explain_cosine(values, norms, rules, reference)) from error
        raise


def _explain_norm(norms: Norms, weight: int, scale: int, rules: RoundNorms) -> str:
    norm = ldexp(sqrt(norms.l2_squared), -scale) / weight
    least = ldexp(sqrt(int(rules.minimum_l2_squared)), -scale)
    return (
        f"the update's L2 norm is {norm:.2g}, the task asks for at least {least:.2g}: there is nothing left to learn "
        "here, or the learning rate or the number of epochs is too small"
    )


def _explain_cosine(values: Values, norms: Norms, rules: RoundNorms, reference: Reference) -> str:
    lengths = sqrt(norms.l2_squared) * sqrt(compute_square(reference))
    cosine = compute_dot(values, reference) / lengths if lengths else 0.0
    return (
        f"the update's cosine to the last global update is {cosine:.3f}, the task asks for at least "
        f"{(rules.minimum_cosine_micro or 0) / 1e6:.3f}: this institution's data pull another way; compare labels and "
        "preprocessing with the others'"
    )
