"""What became of a transaction: sent, asked for, and sent again until the ledger knows it.

After an error whose outcome is unknown the *same* signed transaction is sent again: a ledger takes each id once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from fabric_protos.peer import transaction_pb2

from blockfl.fabric.client.connection import pause
from blockfl.fabric.client.stages import Status
from blockfl.fabric.client.status import has_unknown_outcome
from blockfl.fabric.errors import CommitStatusError, GatewayError, SubmitError

Send = Callable[[], Awaitable[None]]
Ask = Callable[[float], Awaitable[Status]]
"""Waits so many seconds for a transaction's outcome."""

# What ordering nodes say of a transaction that they have: in their pool, or in a block (SmartBFT's request pool).
_HELD: Final = ("request already exists", "request already processed")
# How long to ask for the outcome of a transaction before sending it again.
_GLANCE_S: Final = 2.0


async def settle(transaction_id: str, send: Send, ask: Ask, *, timeout_s: float, retries: int) -> Status:
    """Send a transaction, wait for its outcome, and send it again while that is unknown.

    Args:
        transaction_id: its id.
        send: sends it to the orderers.
        ask: waits for its outcome.
        timeout_s: how long to wait each time it was sent, in seconds.
        retries: how often to send it again.

    Raises:
        SubmitError: refused by the orderers.
        CommitStatusError: still unknown after the last attempt.
    """
    for attempt in range(retries + 1):
        try:
            await _bring(send)
            return await _fate(await ask(timeout_s), ask, timeout_s)
        except (SubmitError, CommitStatusError) as error:
            if not has_unknown_outcome(error):
                raise
            if attempt == retries:
                raise _unknown(error, transaction_id) from error
            failed_to_send = isinstance(error, SubmitError)
        await pause(attempt)
        if failed_to_send:
            try:
                return await _fate(await ask(min(_GLANCE_S, timeout_s)), ask, timeout_s)
            except CommitStatusError:
                continue
    raise AssertionError("unreachable")


async def _bring(send: Send) -> None:
    """Send; what ordering nodes have already needs no sending, however few of them take it again."""
    try:
        await send()
    except SubmitError as error:
        said = (str(error), *(detail.message for detail in error.details))
        if not any(held in text for text in said for held in _HELD):
            raise


async def _fate(status: Status, ask: Ask, timeout_s: float) -> Status:
    """A repetition is a duplicate; the first copy's fate is what counts, and the ledger knows it by now."""
    return await ask(timeout_s) if status.code == int(transaction_pb2.DUPLICATE_TXID) else status


def _unknown(error: GatewayError, transaction_id: str) -> CommitStatusError:
    """The error after the last attempt: the transaction may be on the ledger all the same."""
    if isinstance(error, CommitStatusError):
        return error
    return CommitStatusError(
        f"the outcome of transaction {transaction_id} is unknown, submitting the same one again is safe: {error}",
        status=error.status,
        details=error.details,
        transaction_id=transaction_id,
    )
