"""The contract's reads: records as canonical JSON, lists as JSON arrays of them, chunks as raw bytes."""

from blockfl.contract.authority import require_committee, require_member
from blockfl.contract.chunk import fetch_chunk, is_present, list_model_presence, list_sealed_presence
from blockfl.contract.stake import find_account
from blockfl.contract.state import State
from blockfl.protocol import place
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import Score, Supply
from blockfl.protocol.records import Blob


async def read_consortium(state: State) -> bytes:
    """Return who takes part (BFL112)."""
    return (await state.read_consortium()).encode()


async def read_task(state: State, task: str) -> bytes:
    """Return a task (BFL101)."""
    return (await state.read_task(task)).encode()


async def list_progress(state: State) -> bytes:
    """Return where every task stands, by name; specifications are read one by one, for one alone may have 4 MiB."""
    return await state.list_encoded("progress")


async def read_progress(state: State, task: str) -> bytes:
    """Return where a task stands (BFL101)."""
    return (await state.read_progress(task)).encode()


async def read_round(state: State, task: str, number: int) -> bytes:
    """Return a round (BFL103)."""
    return (await state.read_round(task, number)).encode()


async def list_rounds(state: State, task: str) -> bytes:
    """Return a task's rounds, ascending."""
    return await state.list_encoded(f"round/{task}")


async def read_header(state: State, task: str, number: int, organisation: str) -> bytes:
    """Return an update's signed header (BFL114)."""
    return (await state.read_header(task, number, organisation)).encode()


async def read_update(state: State, task: str, number: int, organisation: str) -> bytes:
    """Return where an update stands (BFL114)."""
    return (await state.read_update(task, number, organisation)).encode()


async def list_updates(state: State, task: str, number: int) -> bytes:
    """Return a round's updates, by organisation."""
    return await state.list_encoded(f"update/{task}/{number:06d}")


async def read_commitment(state: State, task: str, number: int, organisation: str) -> bytes:
    """Return the commitment to an update (BFL117)."""
    return (await state.read_commitment(task, number, organisation)).encode()


async def list_equivocations(state: State, task: str, number: int) -> bytes:
    """Return a round's proofs of equivocation, by organisation."""
    return await state.list_encoded(f"equivocation/{task}/{number:06d}")


async def list_disputes(state: State, task: str, number: int) -> bytes:
    """Return a round's claims about wraps, by the organisation whose update it is, and by member."""
    return await state.list_encoded(f"dispute/{task}/{number:06d}")


async def read_upload(state: State, task: str, number: int, organisation: str) -> bytes:
    """Return for each chunk of an update 1 if it was uploaded, else 0 (BFL114)."""
    signed = await state.read_header(task, number, organisation)
    return _encode_flags(await list_sealed_presence(state, signed.header))


async def read_chunk(state: State, task: str, number: int, organisation: str, index: int) -> bytes:
    """Return a sealed chunk to a member of the committee (BFL202, BFL114, BFL116)."""
    require_committee(await state.read_consortium(), state.caller)
    header = (await state.read_header(task, number, organisation)).header
    key = place.sealed_chunk_key(task, number, organisation, index)
    if index >= len(header.chunk_digests):
        raise ProtocolError(Code.RECORD_UNKNOWN, f"the update has {len(header.chunk_digests)} chunks, got {index}")
    if not await is_present(state, place.SEALED, key, header.chunk_digests[index]):
        raise ProtocolError(Code.UPLOAD_INCOMPLETE, f"chunk {index} of {organisation} has not been uploaded")
    return await fetch_chunk(state, place.SEALED, key)


async def read_aggregate(state: State, task: str, number: int) -> bytes:
    """Return a round's sum (BFL117)."""
    return (await state.read_aggregate(task, number)).encode()


async def list_votes(state: State, task: str, number: int) -> bytes:
    """Return the committee's votes on a round's model, by organisation."""
    return await state.list_encoded(f"vote/{task}/{number:06d}")


async def read_model(state: State, task: str, version: int) -> bytes:
    """Return a model version (BFL117)."""
    return (await state.read_model(task, version)).encode()


async def list_models(state: State, task: str) -> bytes:
    """Return a task's model versions, ascending."""
    return await state.list_encoded(f"model/{task}")


async def read_model_chunk(state: State, task: str, digest: str) -> bytes:
    """Return a chunk of a model or sum to a member (BFL207, BFL111, BFL116)."""
    require_member(await state.read_consortium(), state.caller)
    key = place.model_chunk_key(task, digest)
    if not await is_present(state, place.MODELS, key, digest):
        raise ProtocolError(Code.MODEL_MISSING, f"the chunk {digest} of task {task} has not been uploaded")
    return await fetch_chunk(state, place.MODELS, key)


async def read_model_upload(state: State, task: str, blob: Blob) -> bytes:
    """Return for each chunk of a model or sum 1 if it was uploaded, else 0."""
    return _encode_flags(await list_model_presence(state, task, blob))


async def list_enrolments(state: State, task: str) -> bytes:
    """Return a task's enrolments, by organisation."""
    return await state.list_encoded(f"enrolment/{task}")


async def list_committee_keys(state: State) -> bytes:
    """Return the registered opening keys, by organisation."""
    return await state.list_encoded("committee-key")


async def list_withdrawals(state: State) -> bytes:
    """Return the withdrawn certificates, by organisation."""
    return await state.list_encoded("withdrawal")


async def list_metrics(state: State, task: str, version: int) -> bytes:
    """Return what institutions have reported of a version, by organisation."""
    return await state.list_encoded(f"metrics/{task}/{version:06d}")


async def read_account(state: State, organisation: str) -> bytes:
    """Return an organisation's free credits, or the treasury's."""
    return (await find_account(state, organisation)).encode()


async def list_accounts(state: State) -> bytes:
    """Return all accounts that ever held credits, by organisation."""
    return await state.list_encoded("account")


async def read_supply(state: State) -> bytes:
    """Return how many credits were ever granted."""
    return (await state.find(Supply, place.SUPPLY) or Supply(granted=0)).encode()


async def list_standings(state: State, task: str) -> bytes:
    """Return stakes and reputations, by organisation."""
    return await state.list_encoded(f"standing/{task}")


async def read_score(state: State, task: str, number: int) -> bytes:
    """Return a round's points (BFL117)."""
    what = f"score of round {number} of task {task}"
    return (await state.read(Score, place.score_key(task, number), Code.RECORD_UNKNOWN, what)).encode()


async def list_settlements(state: State, task: str) -> bytes:
    """Return a task's settlements, by round."""
    return await state.list_encoded(f"settlement/{task}")


async def list_reversals(state: State, task: str) -> bytes:
    """Return a task's overturned penalties, by round and organisation."""
    return await state.list_encoded(f"reversal/{task}")


async def list_receipts(state: State) -> bytes:
    """Return all grants and transfers, by who moved them and name."""
    return await state.list_encoded("receipt")


def _encode_flags(flags: list[bool]) -> bytes:
    return b"[" + b",".join(b"1" if flag else b"0" for flag in flags) + b"]"
