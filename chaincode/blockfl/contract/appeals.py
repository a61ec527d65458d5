"""The transaction by which a majority of organisations overturns what a settled round cost one of them."""

from blockfl.contract.authority import require_member
from blockfl.contract.state import State
from blockfl.protocol.account import deposit, withdraw
from blockfl.protocol.appeal import check_objection, has_majority, overturn, restore
from blockfl.protocol.catalogue import ACCOUNT, CONSORTIUM, OBJECTION, REVERSAL, SETTLEMENT, STANDING, TASK
from blockfl.protocol.economics import TREASURY, Economics, Objection, Reversal
from blockfl.protocol.settlement import require_economics


async def overturn_penalty(state: State, task: str, number: int, organisation: str) -> bytes:
    """Vote to overturn what a round cost an organisation; the vote that makes the majority gives it back (members)."""
    consortium = await state.read(CONSORTIUM.key())
    require_member(consortium, state.caller)
    policy = require_economics((await state.read(TASK.key(task))).spec)
    settlement = await state.read(SETTLEMENT.key(task, number))
    own = OBJECTION.key(task, number, organisation, state.caller)
    earlier = await state.find(REVERSAL.key(task, number, organisation)) or await state.find(own)
    if earlier:
        return earlier.encode()
    check_objection(policy, settlement, organisation, state.caller, state.now_ms)
    members = [member.organisation for member in consortium.members]
    objection = Objection(
        task=task, round=number, organisation=organisation, voter=state.caller, voted_at_ms=state.now_ms
    )
    await state.write(objection)
    others = [OBJECTION.key(task, number, organisation, one) for one in members if one != state.caller]
    objections = [await state.find(other) for other in others]
    voters = [state.caller, *(one.voter for one in objections if one)]
    if has_majority(voters, members):
        reversal = overturn(settlement, organisation, voters, state.now_ms)
        await _give_back(state, policy, reversal)
        await state.write(reversal)
        detail = f"{reversal.penalty + reversal.fine} given back"
        state.announce("PenaltyOverturned", task=task, number=number, organisation=organisation, detail=detail)
    else:
        detail = f"{state.caller}: {len(voters)} of {len(members)}"
        state.announce("PenaltyContested", task=task, number=number, organisation=organisation, detail=detail)
    return objection.encode()


async def _give_back(state: State, policy: Economics, reversal: Reversal) -> None:
    treasury = withdraw(await state.read(ACCOUNT.key(TREASURY)), reversal.penalty + reversal.fine)
    await state.write(treasury)
    if reversal.fine:
        account = deposit(await state.read(ACCOUNT.key(reversal.organisation)), reversal.fine)
        await state.write(account)
    if reversal.penalty:
        standing = await state.find(STANDING.key(reversal.task, reversal.organisation))
        assert standing is not None  # it was settled
        await state.write(restore(policy, reversal, standing))
