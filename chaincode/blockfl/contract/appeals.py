"""The transaction by which a majority of organisations overturns what a settled round cost one of them."""

from blockfl.contract.authority import require_member
from blockfl.contract.stake import find_account, find_standing
from blockfl.contract.state import State
from blockfl.protocol import place
from blockfl.protocol.account import deposit, withdraw
from blockfl.protocol.appeal import check_objection, has_majority, overturn, restore
from blockfl.protocol.codes import Code
from blockfl.protocol.economics import TREASURY, Economics, Objection, Reversal, Settlement
from blockfl.protocol.settlement import require_economics


async def overturn_penalty(state: State, task: str, number: int, organisation: str) -> bytes:
    """Vote to overturn what a round cost an organisation; the vote that makes the majority gives it back (members)."""
    consortium = await state.read_consortium()
    require_member(consortium, state.caller)
    policy = require_economics((await state.read_task(task)).spec)
    what = f"settlement of round {number} of task {task}"
    settlement = await state.read(Settlement, place.settlement_key(task, number), Code.NOT_SETTLED, what)
    reversal_key = place.reversal_key(task, number, organisation)
    key = place.objection_key(task, number, organisation, state.caller)
    earlier = await state.find(Reversal, reversal_key) or await state.find(Objection, key)
    if earlier:
        return earlier.encode()
    check_objection(policy, settlement, organisation, state.caller, state.now_ms)
    members = [member.organisation for member in consortium.members]
    objection = Objection(
        task=task, round=number, organisation=organisation, voter=state.caller, voted_at_ms=state.now_ms
    )
    await state.write(key, objection)
    others = [place.objection_key(task, number, organisation, one) for one in members if one != state.caller]
    objections = [await state.find(Objection, other) for other in others]
    voters = [state.caller, *(one.voter for one in objections if one)]
    if has_majority(voters, members):
        reversal = overturn(settlement, organisation, voters, state.now_ms)
        await _give_back(state, policy, reversal)
        await state.write(reversal_key, reversal)
        detail = f"{reversal.penalty + reversal.fine} given back"
        state.announce("PenaltyOverturned", task=task, number=number, organisation=organisation, detail=detail)
    else:
        detail = f"{state.caller}: {len(voters)} of {len(members)}"
        state.announce("PenaltyContested", task=task, number=number, organisation=organisation, detail=detail)
    return objection.encode()


async def _give_back(state: State, policy: Economics, reversal: Reversal) -> None:
    treasury = withdraw(await find_account(state, TREASURY), reversal.penalty + reversal.fine)
    await state.write(place.account_key(TREASURY), treasury)
    if reversal.fine:
        account = deposit(await find_account(state, reversal.organisation), reversal.fine)
        await state.write(place.account_key(reversal.organisation), account)
    if reversal.penalty:
        standing = await find_standing(state, reversal.task, reversal.organisation)
        assert standing is not None  # it was settled
        await state.write(place.standing_key(reversal.task, reversal.organisation), restore(policy, reversal, standing))
