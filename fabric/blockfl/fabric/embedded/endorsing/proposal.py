"""Signed proposals as they arrive: taken apart once, without copying the megabytes of their transient data.

Owns the checks that need nothing but the bytes. Who may propose what is for `admission`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any

from fabric_protos.common import common_pb2
from fabric_protos.peer import chaincode_pb2, proposal_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.embedded.endorsing.payload_cache import PayloadCache
from blockfl.fabric.encoding.wire import encode_bytes, encode_prefix, scan_fields
from blockfl.fabric.errors import BlockError

_NOTHING = memoryview(b"")
_PROPOSABLE = (common_pb2.ENDORSER_TRANSACTION, common_pb2.CONFIG)


@dataclass(frozen=True, kw_only=True, eq=False)
class SignedProposal:
    """A proposal as a client signed it.

    Attributes:
        encoded: The serialised protos.SignedProposal.
        proposal_bytes: What the client signed.
        channel: Name of the channel; empty for calls that belong to none.
        tx_id: Transaction id that the header states.
        timestamp_ms: Milliseconds since 1970, the client's word.
        chaincode: Name of the chaincode.
        contract_input: Serialised ChaincodeInput.
        args: Function and arguments.
        invocation: Serialised ChaincodeInvocationSpec.
        has_transient: Whether there is data for the endorsers only.
        shared: Work that the organisations which simulate it do once.
    """

    encoded: bytes
    proposal_bytes: memoryview
    signature: bytes
    header: Any
    channel: str
    tx_id: str
    timestamp_ms: int
    header_type: int
    epoch: int
    creator: bytes
    nonce: bytes
    chaincode: str
    contract_input: bytes
    args: tuple[bytes, ...]
    is_init: bool
    invocation: bytes
    has_transient: bool
    shared: PayloadCache = field(default_factory=PayloadCache)

    @classmethod
    def parse(cls, encoded: bytes | memoryview) -> SignedProposal:
        """Takes a serialised protos.SignedProposal apart.

        Raises:
            BlockError: It does not parse or names no chaincode; the text says which part.
        """
        outer = _fields(memoryview(encoded), "SignedProposal")
        proposal_bytes = outer.get(1, _NOTHING)
        if not proposal_bytes:
            raise BlockError("a signed proposal is required, got an empty one")
        proposal = _fields(proposal_bytes, "Proposal")
        header = _parse(common_pb2.Header, proposal.get(1, _NOTHING))
        channel_header = _parse(common_pb2.ChannelHeader, header.channel_header)
        signature_header = _parse(common_pb2.SignatureHeader, header.signature_header)
        extension = _parse(proposal_pb2.ChaincodeHeaderExtension, channel_header.extension)
        payload = _fields(proposal.get(2, _NOTHING), "ChaincodeProposalPayload")
        invocation = bytes(payload.get(1, _NOTHING))
        spec = _parse(chaincode_pb2.ChaincodeInvocationSpec, invocation).chaincode_spec
        name = extension.chaincode_id.name
        if not name:
            raise BlockError("expected the name of a chaincode in the proposal's header, got none")
        if not spec.HasField("input"):
            raise BlockError("expected arguments in the chaincode invocation, got no input")
        return cls(
            encoded=bytes(encoded),
            proposal_bytes=proposal_bytes,
            signature=bytes(outer.get(2, _NOTHING)),
            header=header,
            channel=channel_header.channel_id,
            tx_id=channel_header.tx_id,
            timestamp_ms=channel_header.timestamp.seconds * 1000 + channel_header.timestamp.nanos // 1_000_000,
            header_type=channel_header.type,
            epoch=channel_header.epoch,
            creator=signature_header.creator,
            nonce=signature_header.nonce,
            chaincode=name,
            contract_input=spec.input.SerializeToString(deterministic=True),
            args=tuple(spec.input.args),
            is_init=spec.input.is_init,
            invocation=invocation,
            has_transient=2 in payload,
        )

    @property
    def function(self) -> str:
        """Name of the function called, for messages."""
        return self.args[0][:64].decode(errors="replace") if self.args else ""

    @cached_property
    def public_payload(self) -> bytes:
        """The serialised ChaincodeProposalPayload without transient data."""
        return encode_bytes(1, self.invocation)

    @cached_property
    def proposal_hash(self) -> bytes:
        """What binds the endorsements to this proposal."""
        header = self.header
        return sha256(header.channel_header + header.signature_header + self.public_payload).digest()

    def check_form(self) -> None:
        """Checks what a peer checks before it looks at the creator.

        Raises:
            BlockError: Type, epoch, nonce, creator or transaction id are wrong.
        """
        if self.header_type not in _PROPOSABLE:
            raise BlockError(f"invalid header type {self.header_type}: expected ENDORSER_TRANSACTION (3)")
        if self.epoch:
            raise BlockError(f"epoch is non-zero: expected 0, got {self.epoch}")
        if not self.nonce:
            raise BlockError("nonce is empty")
        if not self.creator:
            raise BlockError("creator is empty")
        expected = sha256(self.nonce + self.creator).hexdigest()
        if self.tx_id != expected:
            raise BlockError(f"incorrectly computed txid '{self.tx_id}' -- expected '{expected}'")
        if not self.signature:
            raise BlockError("empty signature bytes")


def assemble_envelope(proposal: SignedProposal, response_payload: bytes, endorsements: list[bytes]) -> bytes:
    """Puts a transaction together for its client to sign: the envelope without a signature.

    Args:
        proposal: What was endorsed; its transient data is left out.
        response_payload: The endorsers' common ProposalResponsePayload.
        endorsements: Serialised protos.Endorsement, one per endorser.
    """
    signed = b"".join(encode_prefix(2, len(e)) + e for e in endorsements)
    endorsed = encode_bytes(1, response_payload) + signed
    payload = encode_bytes(1, proposal.public_payload) + encode_bytes(2, endorsed)
    action = encode_bytes(1, proposal.header.signature_header) + encode_bytes(2, payload)
    transaction = encode_bytes(1, action)
    header = proposal.header.SerializeToString(deterministic=True)
    return encode_bytes(1, encode_bytes(1, header) + encode_bytes(2, transaction))


def _fields(message: memoryview, what: str) -> dict[int, memoryview]:
    try:
        return {number: value for number, value in scan_fields(message) if isinstance(value, memoryview)}
    except ValueError as error:
        raise BlockError(f"expected {what}, got {len(message)} bytes that do not parse: {error}") from error


def _parse(kind: Any, encoded: bytes | memoryview) -> Any:
    try:
        return kind.FromString(bytes(encoded))
    except DecodeError as error:
        name = kind.DESCRIPTOR.name
        raise BlockError(f"expected {name}, got {len(encoded)} bytes that do not parse as one") from error
