"""Transactions about wraps that a committee member says it cannot open: the claim, and its settlement.

Verdicts do not wait for either: they are the threshold's. What is written here is who was right about a wrap, proven
to a majority of organisations by one ephemeral key, which comes as a transient field and is never written.
"""

from blockfl.contract.authority import require_committee
from blockfl.contract.state import State
from blockfl.protocol import dispute as rule
from blockfl.protocol.catalogue import CONSORTIUM, DISPUTE, HEADER


async def claim_wrap(state: State, task: str, number: int, organisation: str) -> bytes:
    """Claim that the caller cannot open its wrap of an update."""
    require_committee(await state.read(CONSORTIUM.key()), state.caller)
    earlier = await state.find(DISPUTE.key(task, number, organisation, state.caller))
    if earlier:
        return earlier.encode()
    header = (await state.read(HEADER.key(task, number, organisation))).header
    dispute = rule.claim_wrap(header, state.caller, state.now_ms)
    await state.write(dispute)
    state.announce("WrapClaimed", task=task, number=number, organisation=organisation, detail=state.caller)
    return dispute.encode()


async def settle_wrap(
    state: State, task: str, number: int, organisation: str, member: str, ephemeral_key: bytes
) -> bytes:
    """Settle a claim by showing the ephemeral key of one wrap."""
    if state.caller != organisation:
        require_committee(await state.read(CONSORTIUM.key()), state.caller)
    dispute = await state.read(DISPUTE.key(task, number, organisation, member))
    header = (await state.read(HEADER.key(task, number, organisation))).header
    settled = rule.settle_claim(dispute, header, ephemeral_key, state.caller, state.now_ms)
    if settled == dispute:
        return dispute.encode()
    await state.write(settled)
    detail = f"{settled.state}: {member}"
    state.announce("WrapSettled", task=task, number=number, organisation=organisation, detail=detail)
    return settled.encode()
