"""What a client sees of a ledger: answers, status codes, read/write sets, events, in a form that two ledgers share.

What has to differ is replaced: transaction ids, addresses, versions (by their order), hashes over versions.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Awaitable
from typing import Any

from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.errors import CommitError, FabricError, GatewayError
from blockfl.fabric.transaction.envelope import assemble_transaction, build_proposal, sign_envelope
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import MerkleSummary, ReadWriteSet, Version, decode_read_write_set
from support.consortium import CHANNEL, CONTRACT, AnyConsortium
from support.operations_contract import Operation, encode_operations

_MASKS = (
    (re.compile(r"[0-9a-f]{64,}"), "<id>"),
    (re.compile(r"127\.0\.0\.1:\d+"), "<address>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d[ T][0-9:.]+( [+-]\d{4} UTC|Z)?"), "<time>"),
)


def mask(text: str) -> str:
    """A text without what differs from run to run."""
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text


async def outcome(action: Awaitable[Any]) -> Any:
    """What became of a call: its result, or error, status and what each node said."""
    try:
        result = await action
    except CommitError as error:
        return {"invalid": error.code_name}
    except GatewayError as error:
        said = sorted((detail.msp_id, mask(detail.message)) for detail in error.details)
        return {"error": type(error).__name__, "status": error.status.name, "said": said}
    except FabricError as error:
        return {"error": type(error).__name__}
    return {"result": result.decode() if isinstance(result, bytes) else str(result)}


def describe_sets(results: bytes) -> Any:
    """A transaction's read/write sets, versions by their order among those that it read."""
    sets = decode_read_write_set(results)
    order = {version: rank for rank, version in enumerate(sorted(_versions(sets)))}
    return _plain(sets, order)


async def endorse(
    network: AnyConsortium, peer: str, *operations: Operation, transient: dict[str, bytes] | None = None, by: str = ""
) -> Any:
    """What one peer makes of operations: response, read/write set, event."""
    signer = network.signer(by or peer)
    args = [b"Run", encode_operations(*operations).encode()]
    proposal = build_proposal(CHANNEL, CONTRACT, args, signer, transient)
    async with Endorser(network.endpoint(peer), signer) as endorser:
        try:
            response = await endorser.process(proposal)
        except GatewayError as error:
            return {"error": mask(str(error).partition(": ")[2]), "status": error.status.name}
    transaction = decode_transaction(sign_envelope(assemble_transaction(proposal, [response]), signer))
    event = transaction.event
    return {
        "response": [response.response.status, response.response.message, response.response.payload.hex()],
        "sets": describe_sets(transaction.results),
        "event": None if event is None else [event.chaincode, event.name, event.payload.decode()],
    }


def _versions(value: Any) -> set[Version]:
    if isinstance(value, Version):
        return {value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return set().union(*(_versions(getattr(value, field.name)) for field in dataclasses.fields(value)))
    if isinstance(value, tuple):
        return set().union(*(_versions(one) for one in value))
    return set()


def _plain(value: Any, order: dict[Version, int]) -> Any:
    if isinstance(value, Version):
        return f"version {order[value]}"
    if isinstance(value, MerkleSummary):
        return {"degree": value.max_degree, "level": value.max_level, "hashes": len(value.hashes)}
    if isinstance(value, ReadWriteSet) or (dataclasses.is_dataclass(value) and not isinstance(value, type)):
        return {field.name: _plain(getattr(value, field.name), order) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple | list):
        return [_plain(one, order) for one in value]
    return value
