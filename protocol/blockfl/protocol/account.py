"""Moving credits: granted, transferred, locked as a stake and released. Nothing else changes an account.

Every function takes records and returns new ones; the total of what it takes and returns is the same, but for a grant.

    supply, account = grant(supply, account, 1_000)
    account, standing = lock(account, standing, 200)

Source: ``docs/economics.md``, accounts.
"""

from blockfl.protocol.canonical import MAX_INTEGER
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import (
    MOVE_INTERVAL_MS,
    MOVES_AHEAD,
    START_REPUTATION,
    Account,
    Economics,
    Pace,
    Standing,
    Supply,
)
from blockfl.protocol.moment import format_moment


def check_amount(amount: int) -> None:
    """Check that an amount can be moved.

    Raises:
        ProtocolError: BFL601 unless it is from 1 to 2^53 − 1.
    """
    if not 1 <= amount <= MAX_INTEGER:
        raise ProtocolError(Code.AMOUNT, f"expected an amount from 1 to {MAX_INTEGER} credits, got {amount}")


def grant(supply: Supply, account: Account, amount: int) -> tuple[Supply, Account]:
    """Return supply and account with new credits.

    Raises:
        ProtocolError: BFL601 for an amount that is none; BFL602 when all credits together would pass 2^53 − 1.
    """
    check_amount(amount)
    if supply.granted + amount > MAX_INTEGER:
        raise ProtocolError(
            Code.SUPPLY, f"{supply.granted} credits are granted, {amount} more would pass {MAX_INTEGER}: grant fewer"
        )
    return Supply(granted=supply.granted + amount), deposit(account, amount)


def transfer(source: Account, target: Account, amount: int) -> tuple[Account, Account]:
    """Return both accounts after the transfer.

    Raises:
        ProtocolError: BFL601 for an amount that is none, or one to oneself; BFL603 when the source holds less.
    """
    check_amount(amount)
    if source.organisation == target.organisation:
        raise ProtocolError(Code.AMOUNT, f"expected an account other than one's own, got {target.organisation}")
    return withdraw(source, amount), deposit(target, amount)


def keep_pace(pace: Pace | None, organisation: str, now_ms: int) -> Pace:
    """Return the pace of an organisation after one more grant or transfer, as a generic cell rate algorithm keeps it.

    Args:
        pace: its pace before; None when it never moved credits.
        organisation: who moves them.
        now_ms: the transaction's time.

    Raises:
        ProtocolError: BFL614 when it has moved credits too often.

    Source: ITU-T I.371, annex A (the virtual scheduling algorithm).
    """
    due_ms = max(pace.due_ms if pace else 0, now_ms)
    again_ms = due_ms - (MOVES_AHEAD - 1) * MOVE_INTERVAL_MS
    if now_ms < again_ms:
        raise ProtocolError(
            Code.PACE,
            f"{organisation} has made {MOVES_AHEAD} grants and transfers in a short time, the transaction's time is "
            f"{format_moment(now_ms)}: try again from {format_moment(again_ms)} on",
        )
    return Pace(organisation=organisation, due_ms=due_ms + MOVE_INTERVAL_MS)


def deposit(account: Account, amount: int) -> Account:
    """Return the account with more."""
    return account.model_copy(update={"credits": account.credits + amount})


def withdraw(account: Account, amount: int) -> Account:
    """Return the account with less.

    Raises:
        ProtocolError: BFL603.
    """
    if account.credits < amount:
        raise ProtocolError(
            Code.BALANCE, f"{account.organisation} holds {account.credits} credits, {amount} are needed: get more first"
        )
    return account.model_copy(update={"credits": account.credits - amount})


def compute_required_stake(policy: Economics, *, samples: int, samples_cap: int) -> int:
    """Return the stake that so many declared samples need.

    Raises:
        ProtocolError: BFL602 when that is more than there can be.
    """
    required = policy.stake_base + min(samples, samples_cap) * policy.stake_per_sample
    if required > MAX_INTEGER:
        raise ProtocolError(Code.SUPPLY, f"{samples} samples need a stake of {required} credits, over {MAX_INTEGER}")
    return required


def create_standing(task: str, organisation: str, required: int) -> Standing:
    """Return the standing of an institution before its first round, with nothing locked yet."""
    return Standing(
        task=task,
        organisation=organisation,
        required=required,
        stake=0,
        reputation=START_REPUTATION,
        debt=0,
        absences=0,
        suspended_until=0,
        earned=0,
        slashed=0,
    )


def lock(account: Account, standing: Standing, required: int) -> tuple[Account, Standing]:
    """Return account and standing with the stake filled up to what is required; more than that stays locked.

    Raises:
        ProtocolError: BFL603 when the account holds less than what is missing.
    """
    missing = max(0, required - standing.stake)
    locked = standing.model_copy(update={"required": required, "stake": standing.stake + missing})
    return withdraw(account, missing), locked


def release(account: Account, standing: Standing) -> tuple[Account, Standing]:
    """Return account and standing with the whole stake given back."""
    return deposit(account, standing.stake), standing.model_copy(update={"stake": 0})
