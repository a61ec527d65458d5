"""Requests that may be signed elsewhere: bytes out, signature in; each carries its own next step.

A service that talks to the gateway need not hold a key. It hands `to_bytes()` and `digest` to where the key is, and
goes on with the signature, in this process or another, which rebuilds the request from the bytes. The bytes are those
of the official Gateway clients. A request without a signature is signed by the gateway's own signer, if it has one.

    proposal = gateway.new_proposal("app", "Put", "key", "value")
    transaction = await proposal.signed(sign(proposal.digest)).endorse()
    commit = await transaction.signed(sign(transaction.digest)).submit()
    status = await commit.signed(sign(commit.digest)).read_status()
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

from fabric_protos.common import common_pb2
from fabric_protos.gateway import gateway_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client import calls
from blockfl.fabric.client.connection import Connection
from blockfl.fabric.client.deliver import PEER_DELIVER, PEER_DELIVER_FILTERED, PEER_DELIVER_PRIVATE, read_answers
from blockfl.fabric.client.events import ChaincodeEvent, decode_events
from blockfl.fabric.client.stages import Status
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.callback import lower_signature
from blockfl.fabric.transaction.envelope import Proposal, Transaction, encode_envelope, parse_proposal
from blockfl.fabric.transaction.reading import decode_transaction


@dataclass(frozen=True, kw_only=True)
class _Signable:
    """What all requests share.

    Attributes:
        message: the bytes that the signature is over.
        signature: the creator's; empty while it is missing.
    """

    connection: Connection = field(repr=False)
    message: bytes = field(repr=False)
    signature: bytes = field(default=b"", repr=False)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the message, which is what ECDSA signs; Ed25519 signs the message itself."""
        return hashlib.sha256(self.message).digest()

    def signed(self, signature: bytes) -> Self:
        """The same request with a signature that was made elsewhere; S is brought into the lower half."""
        return replace(self, signature=lower_signature(self.connection.identity, signature))

    async def _sign(self) -> Self:
        """The request with its signature: the one it has, or the gateway's own signer's."""
        return self if self.signature else replace(self, signature=await self.connection.sign(self.message))


@dataclass(frozen=True, kw_only=True)
class SignableProposal(_Signable):
    """A proposal: next it is evaluated or endorsed.

    Attributes:
        proposal: the same taken apart.
        organisations: MSP ids of the organisations that are to run it; chosen by the gateway when empty.
    """

    proposal: Proposal = field(repr=False)
    organisations: tuple[str, ...] = ()

    @property
    def transaction_id(self) -> str:
        """The id of the transaction that it becomes."""
        return self.proposal.tx_id

    def to_bytes(self) -> bytes:
        """The request as bytes (gateway.ProposedTransaction), for `Gateway.proposal_from`."""
        return bytes(calls.as_proposal_message(self._complete, self.organisations).SerializeToString())

    async def evaluate(self, *, timeout_s: float | None = None, retries: int = 0) -> bytes:
        """Have it run and return the result; nothing is ordered.

        Raises:
            EvaluateError: the contract or the peer refuses, or nobody answers in time.
            IdentityError: it is not signed, and the gateway has no signer.
        """
        one, timeouts = await self._sign(), self.connection.timeouts
        limit_s = timeouts.evaluate_s if timeout_s is None else timeout_s
        return await calls.evaluate(self.connection, one._complete, self.organisations, limit_s, retries)

    async def endorse(self, *, timeout_s: float | None = None, retries: int = 0) -> SignableTransaction:
        """Collect endorsements.

        Raises:
            EndorseError: the contract refuses, endorsers disagree, or not enough of them answer.
            IdentityError: it is not signed, and the gateway has no signer.
        """
        one, timeouts = await self._sign(), self.connection.timeouts
        limit_s = timeouts.endorse_s if timeout_s is None else timeout_s
        prepared = await calls.endorse(self.connection, one._complete, self.organisations, limit_s, retries)
        return SignableTransaction(
            connection=self.connection, message=prepared.payload, transaction=prepared.transaction
        )

    @property
    def _complete(self) -> Proposal:
        return replace(self.proposal, signature=self.signature)


@dataclass(frozen=True, kw_only=True)
class SignableTransaction(_Signable):
    """An endorsed transaction: next it is submitted.

    Attributes:
        transaction: the same taken apart, for a signer to look at before it signs.
    """

    transaction: Transaction = field(repr=False)

    @property
    def transaction_id(self) -> str:
        """Its id."""
        return self.transaction.tx_id

    @property
    def result(self) -> bytes:
        """What the contract returned."""
        return self.transaction.response_payload

    @property
    def event(self) -> ChaincodeEvent | None:
        """What it will announce when it turns out valid."""
        return calls.announced_event(self.transaction)

    def to_bytes(self) -> bytes:
        """The request as bytes (gateway.PreparedTransaction), for `Gateway.transaction_from`."""
        envelope = common_pb2.Envelope(payload=self.message, signature=self.signature)
        message = gateway_pb2.PreparedTransaction(transaction_id=self.transaction_id, envelope=envelope)
        return bytes(message.SerializeToString())

    async def submit(self, *, timeout_s: float | None = None) -> SignableCommit:
        """Send it to the orderers, without waiting for its outcome.

        Raises:
            SubmitError: the orderers did not acknowledge it.
            IdentityError: it is not signed, and the gateway has no signer.
        """
        one, channel = await self._sign(), self.transaction.channel_id
        limit_s = self.connection.timeouts.submit_s if timeout_s is None else timeout_s
        envelope = encode_envelope(one.message, one.signature)
        await calls.send(self.connection, channel, self.transaction_id, envelope, limit_s)
        return SignableCommit(
            connection=self.connection,
            message=calls.build_status_request(self.connection, channel, self.transaction_id),
            transaction_id=self.transaction_id,
            result=self.result,
        )


@dataclass(frozen=True, kw_only=True)
class SignableCommit(_Signable):
    """A transaction that was sent: next its outcome is read.

    Attributes:
        transaction_id: the transaction's id.
        result: what the contract returned; None when the request was rebuilt from bytes.
    """

    transaction_id: str
    result: bytes | None = None

    def to_bytes(self) -> bytes:
        """The request as bytes (gateway.SignedCommitStatusRequest), for `Gateway.commit_from`."""
        return bytes(
            gateway_pb2.SignedCommitStatusRequest(request=self.message, signature=self.signature).SerializeToString()
        )

    async def read_status(self, *, timeout_s: float | None = None) -> Status:
        """Wait until the transaction is on the ledger and tell whether it is valid.

        Raises:
            CommitStatusError: not known in time.
            IdentityError: it is not signed, and the gateway has no signer.
        """
        one = await self._sign()
        limit_s = self.connection.timeouts.commit_s if timeout_s is None else timeout_s
        return await calls.read_status(self.connection, one.message, one.signature, self.transaction_id, limit_s)


@dataclass(frozen=True, kw_only=True)
class SignableEvents(_Signable):
    """A request for chaincode events: next they are read, over one connection (`Gateway.events` survives several).

    Attributes:
        chaincode: whose events.
    """

    chaincode: str

    def to_bytes(self) -> bytes:
        """The request as bytes (gateway.SignedChaincodeEventsRequest), for `Gateway.events_from`."""
        return bytes(
            gateway_pb2.SignedChaincodeEventsRequest(request=self.message, signature=self.signature).SerializeToString()
        )

    async def read(self, *, timeout_s: float | None = None) -> AsyncGenerator[ChaincodeEvent, None]:
        """Yield the events until the connection ends.

        Raises:
            GatewayError: the peer refuses, or the connection broke.
            IdentityError: it is not signed, and the gateway has no signer.
        """
        one = await self._sign()
        limit_s = self.connection.timeouts.events_s if timeout_s is None else timeout_s
        async with aclosing(
            self.connection.read_events(one.to_bytes(), f"cannot read the events of {self.chaincode}", limit_s)
        ) as answers:
            async for answer in answers:
                for event in decode_events(answer):
                    yield event


BLOCKS: Final = PEER_DELIVER
FILTERED_BLOCKS: Final = PEER_DELIVER_FILTERED
PRIVATE_BLOCKS: Final = PEER_DELIVER_PRIVATE


@dataclass(frozen=True, kw_only=True)
class SignableBlocks(_Signable):
    """A request for blocks: next they are read, over one connection (`Gateway.blocks` survives several).

    Attributes:
        kind: `BLOCKS`, `FILTERED_BLOCKS` or `PRIVATE_BLOCKS`.
    """

    kind: str = BLOCKS

    def to_bytes(self) -> bytes:
        """The request as bytes (common.Envelope), for `Gateway.blocks_from`; peers refuse one that is minutes old."""
        return encode_envelope(self.message, self.signature)

    async def read(self, *, timeout_s: float | None = None) -> AsyncGenerator[Any, None]:
        """Yield common.Block, protos.FilteredBlock or protos.BlockAndPrivateData until the connection ends.

        Raises:
            GatewayError: the peer refuses, or the connection broke.
            IdentityError: it is not signed, and the gateway has no signer.
        """
        one, connection = await self._sign(), self.connection
        limit_s = blocks_limit_s(connection, self.kind) if timeout_s is None else timeout_s
        async with aclosing(
            read_answers(connection.channel, one.to_bytes(), method=self.kind, timeout_s=limit_s)
        ) as answers:
            async for answer in answers:
                yield answer


def blocks_limit_s(connection: Connection, kind: str) -> float | None:
    """How long a stream of this kind of blocks may take, in seconds."""
    timeouts = connection.timeouts
    limits = {FILTERED_BLOCKS: timeouts.filtered_blocks_s, PRIVATE_BLOCKS: timeouts.private_blocks_s}
    return limits.get(kind, timeouts.blocks_s)


# Rebuilt from bytes


def proposal_from(connection: Connection, content: bytes) -> SignableProposal:
    """Rebuild a proposal (gateway.ProposedTransaction).

    Raises:
        BlockError: the bytes are none.
    """
    message = _parse(gateway_pb2.ProposedTransaction, content, "a proposal")
    proposal = parse_proposal(message.proposal.proposal_bytes, message.proposal.signature)
    return SignableProposal(
        connection=connection,
        message=proposal.proposal_bytes,
        signature=proposal.signature,
        proposal=proposal,
        organisations=tuple(message.endorsing_organizations),
    )


def transaction_from(connection: Connection, content: bytes) -> SignableTransaction:
    """Rebuild an endorsed transaction (gateway.PreparedTransaction).

    Raises:
        BlockError: the bytes are none.
    """
    envelope = _parse(gateway_pb2.PreparedTransaction, content, "a transaction").envelope
    return SignableTransaction(
        connection=connection,
        message=envelope.payload,
        signature=envelope.signature,
        transaction=decode_transaction(envelope.SerializeToString()),
    )


def commit_from(connection: Connection, content: bytes) -> SignableCommit:
    """Rebuild a request for an outcome (gateway.SignedCommitStatusRequest).

    Raises:
        BlockError: the bytes are none.
    """
    signed = _parse(gateway_pb2.SignedCommitStatusRequest, content, "a request for an outcome")
    request = _parse(gateway_pb2.CommitStatusRequest, signed.request, "a request for an outcome")
    return SignableCommit(
        connection=connection,
        message=signed.request,
        signature=signed.signature,
        transaction_id=request.transaction_id,
    )


def events_from(connection: Connection, content: bytes) -> SignableEvents:
    """Rebuild a request for chaincode events (gateway.SignedChaincodeEventsRequest).

    Raises:
        BlockError: the bytes are none.
    """
    signed = _parse(gateway_pb2.SignedChaincodeEventsRequest, content, "a request for events")
    request = _parse(gateway_pb2.ChaincodeEventsRequest, signed.request, "a request for events")
    return SignableEvents(
        connection=connection, message=signed.request, signature=signed.signature, chaincode=request.chaincode_id
    )


def blocks_from(connection: Connection, content: bytes, kind: str) -> SignableBlocks:
    """Rebuild a request for blocks (common.Envelope) of a kind, which the bytes do not name.

    Raises:
        BlockError: the bytes are none.
    """
    envelope = _parse(common_pb2.Envelope, content, "a request for blocks")
    return SignableBlocks(connection=connection, message=envelope.payload, signature=envelope.signature, kind=kind)


def _parse(kind: Any, content: bytes, what: str) -> Any:
    try:
        return kind.FromString(content)
    except DecodeError as error:
        raise BlockError(f"expected {what}, got {len(content)} bytes that do not parse") from error
