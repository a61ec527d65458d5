"""What the bytes of a public ledger are: the parts of its envelopes by the contract's function, and the blocks' own.

parts = measure(Path("evidence.bundle"))
parts["JudgeUpdate"]["endorsements"]
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from fabric_protos.common import common_pb2
from fabric_protos.peer import chaincode_pb2, proposal_pb2, proposal_response_pb2, transaction_pb2

from blockfl.audit.bundle import Bundle
from blockfl.fabric.transaction.rwset import decode_read_write_set

PARTS: Final = ("endorsements", "creators", "writes", "reads and hashes", "arguments", "answers", "events", "other")
BLOCKS: Final = "blocks"
"""Headers and metadata: hashes, the ordering nodes' signatures, validation codes."""


def measure(bundle: Path) -> dict[str, dict[str, int]]:
    """Return bytes by function and part; of the blocks themselves under ``blocks``; configuration counts as one."""
    found: dict[str, Counter[str]] = {}
    with Bundle.open(bundle) as opened:
        for block in opened.blocks():
            data = sum(map(len, block.data.data))
            found.setdefault(BLOCKS, Counter())["other"] += block.ByteSize() - data
            for envelope in block.data.data:
                name, parts = _measure_envelope(envelope)
                found.setdefault(name, Counter()).update(parts)
    return {name: dict(parts) for name, parts in found.items()}


def _measure_envelope(encoded: bytes) -> tuple[str, Mapping[str, int]]:
    payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(encoded).payload)
    kind = common_pb2.ChannelHeader.FromString(payload.header.channel_header).type
    if kind != common_pb2.ENDORSER_TRANSACTION:
        return "configuration", {"other": len(encoded)}
    [action] = transaction_pb2.Transaction.FromString(payload.data).actions
    content = transaction_pb2.ChaincodeActionPayload.FromString(action.payload)
    proposal = proposal_pb2.ChaincodeProposalPayload.FromString(content.chaincode_proposal_payload)
    called = chaincode_pb2.ChaincodeInvocationSpec.FromString(proposal.input).chaincode_spec.input.args
    answer = proposal_response_pb2.ProposalResponsePayload.FromString(content.action.proposal_response_payload)
    done = proposal_pb2.ChaincodeAction.FromString(answer.extension)
    writes = _count_writes(done.results)
    parts = {
        "endorsements": sum(len(one.endorser) + len(one.signature) for one in content.action.endorsements),
        "creators": len(payload.header.signature_header) + len(action.header),
        "writes": writes,
        "reads and hashes": len(done.results) - writes,
        "arguments": sum(map(len, called)),
        "answers": len(done.response.payload),
        "events": len(done.events),
    }
    return called[0].decode(), {**parts, "other": len(encoded) - sum(parts.values())}


def _count_writes(results: Any) -> int:
    return sum(
        len(one.key) + len(one.value) for space in decode_read_write_set(results).namespaces for one in space.writes
    )
