"""Credits on the ledger: accounts, stakes, and who may take part in a task that has economics."""

from blockfl.contract.state import State
from blockfl.protocol.account import compute_required_stake, create_standing, lock
from blockfl.protocol.catalogue import ACCOUNT, PROGRESS, ROUND, SETTLEMENT, STANDING
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import Economics
from blockfl.protocol.records import Enrolment, Round
from blockfl.protocol.reputation import has_stake, list_eligible
from blockfl.protocol.task import TaskSpec


async def is_settled(state: State, round_: Round) -> bool:
    """Whether a round is over for the accounts: it failed, or it was settled."""
    if round_.state == "failed":
        return True
    return await state.find(SETTLEMENT.key(round_.task, round_.round)) is not None


async def require_settled(state: State, task: str, code: Code) -> None:
    """Check that the task's last round is over for the accounts.

    Raises:
        ProtocolError: With this code when it is not.
    """
    number = (await state.read(PROGRESS.key(task))).round
    if number and not await is_settled(state, await state.read(ROUND.key(task, number))):
        raise ProtocolError(code, f"round {number} of {task} is not settled yet: try again when it is")


async def fill_stake(state: State, policy: Economics, spec: TaskSpec, samples: int, *, is_enrolled: bool) -> bool:
    """Lock what the caller's stake lacks for so many samples; return whether anything changed.

    An institution that repeats an enrolment fills its stake up if possible; what is left is enough to stay, or the call
    is refused.

    Raises:
        ProtocolError: BFL603 when the account holds too little, BFL602 when no account could hold enough.
    """
    required = compute_required_stake(policy, samples=samples, samples_cap=spec.samples_cap)
    before = await state.find(STANDING.key(spec.task, state.caller))
    standing = before or create_standing(spec.task, state.caller, required)
    account = await state.read(ACCOUNT.key(state.caller))
    missing = required - standing.stake
    if is_enrolled and (missing <= 0 or (account.credits < missing and has_stake(standing))):
        return False
    filled, locked = lock(account, standing, required)
    if filled != account:
        await state.write(filled)
    if locked != before:
        await state.write(locked)
    return locked != before


async def select_eligible(state: State, spec: TaskSpec, enrolments: list[Enrolment], number: int) -> list[Enrolment]:
    """Return the enrolments of those that may take part in a round; referees need no stake."""
    found = await state.find_all([STANDING.key(spec.task, one.organisation) for one in enrolments])
    staked = {one.organisation: standing for one, standing in zip(enrolments, found, strict=True) if standing}
    eligible = list_eligible(staked, number=number, minimum=spec.minimum_accepted)
    return [one for one in enrolments if one.organisation in (*eligible, *spec.referees)]
