"""Transactions about wraps that a committee member says it cannot open: the claim, and its settlement.

Verdicts do not wait for either: they are the threshold's. What is written here is who was right about a wrap, proven
to a majority of organisations by one ephemeral key, which comes as a transient field and is never written.
"""

from blockfl.contract.authority import require_committee
from blockfl.contract.state import State
from blockfl.protocol import dispute as rule
from blockfl.protocol import place
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Dispute


async def claim_wrap(state: State, task: str, number: int, organisation: str) -> bytes:
    """Claim that the caller cannot open its wrap of an update."""
    require_committee(await state.read_consortium(), state.caller)
    key = place.dispute_key(task, number, organisation, state.caller)
    earlier = await state.find(Dispute, key)
    if earlier:
        return earlier.encode()
    header = (await state.read_header(task, number, organisation)).header
    dispute = rule.claim_wrap(header, state.caller, state.now_ms)
    await state.write(key, dispute)
    state.announce("WrapClaimed", task=task, number=number, organisation=organisation, detail=state.caller)
    return dispute.encode()


async def settle_wrap(
    state: State, task: str, number: int, organisation: str, member: str, ephemeral_key: bytes
) -> bytes:
    """Settle a claim by showing the ephemeral key of one wrap."""
    if state.caller != organisation:
        require_committee(await state.read_consortium(), state.caller)
    key = place.dispute_key(task, number, organisation, member)
    what = f"claim of {member} about the update of {organisation} in round {number} of task {task}"
    dispute = await state.read(Dispute, key, Code.RECORD_UNKNOWN, what)
    header = (await state.read_header(task, number, organisation)).header
    settled = rule.settle_claim(dispute, header, ephemeral_key, state.caller, state.now_ms)
    if settled == dispute:
        return dispute.encode()
    await state.write(key, settled)
    detail = f"{settled.state}: {member}"
    state.announce("WrapSettled", task=task, number=number, organisation=organisation, detail=detail)
    return settled.encode()
