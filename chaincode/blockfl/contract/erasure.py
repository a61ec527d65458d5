"""Erasing sealed updates: the institution asks once, on record; then each update's ciphertext is purged.

Peers that keep to the rules then hold none of it, its history included. Proofs do not need it: they rest on the signed
header, the commitment and the verdict, which stay. An update that its round may still need is kept.
"""

from blockfl.contract.authority import require_committee
from blockfl.contract.chunk import list_sealed_presence
from blockfl.contract.state import State
from blockfl.protocol.catalogue import (
    CONSORTIUM,
    ERASURE,
    HEADER,
    PROGRESS,
    ROUND,
    SEALED_COLLECTION,
    SETTLEMENT,
    TASK,
    sealed_chunk_key,
)
from blockfl.protocol.claims import Erasure
from blockfl.protocol.codes import Code, ProtocolError


async def request_erasure(state: State, task: str) -> bytes:
    """Put on record that the caller wants its updates of a task erased, those of all rounds up to now."""
    await state.read(CONSORTIUM.key())
    spec = (await state.read(TASK.key(task))).spec
    if state.caller not in spec.institutions:
        names = ", ".join(spec.institutions)
        raise ProtocolError(Code.NOT_INSTITUTION, f"expected an institution of task {task} ({names})")
    number = (await state.read(PROGRESS.key(task))).round
    round_ = await state.read(ROUND.key(task, number))
    if round_.state in ("open", "closed"):
        raise ProtocolError(Code.TASK_BUSY, f"round {number} of task {task} is {round_.state}: ask when it is over")
    settlement = await state.find(SETTLEMENT.key(task, number))
    if spec.economics and round_.state == "published" and settlement is None:
        raise ProtocolError(Code.NOT_SETTLED, f"round {number} of task {task} is not settled yet: ask when it is")
    previous = await state.find(ERASURE.key(task, state.caller))
    if previous and previous.until_round == number:
        return previous.encode()
    erasure = Erasure(task=task, organisation=state.caller, until_round=number, requested_at_ms=state.now_ms)
    await state.write(erasure)
    state.announce("ErasureRequested", task=task, number=number, organisation=state.caller, detail=f"up to {number}")
    return erasure.encode()


async def erase_update(state: State, task: str, number: int, organisation: str) -> bytes:
    """Purge the chunks of one update whose institution asked for it; the institution itself, or a committee member."""
    consortium = await state.read(CONSORTIUM.key())
    if state.caller != organisation:
        require_committee(consortium, state.caller)
    erasure = await state.read(ERASURE.key(task, organisation))
    if number > erasure.until_round:
        raise ProtocolError(
            Code.RECORD_UNKNOWN,
            f"{organisation} asked for rounds up to {erasure.until_round} of task {task} to be erased, got round "
            f"{number}: ask again",
        )
    header = (await state.read(HEADER.key(task, number, organisation))).header
    held = [index for index, there in enumerate(await list_sealed_presence(state, header)) if there]
    for index in held:
        await state.context.purge_private(SEALED_COLLECTION, sealed_chunk_key(task, number, organisation, index))
    if held:
        detail = f"{len(held)} of {len(header.chunk_digests)} chunks"
        state.announce("UpdateErased", task=task, number=number, organisation=organisation, detail=detail)
    return b""
