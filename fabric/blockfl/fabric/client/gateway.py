"""The Gateway client: evaluate and submit transactions, follow events and blocks, through one peer.

Owns the stages of a transaction and what a failure of each means. Before the orderers have it a failure changes
nothing; after that the outcome may be unknown, and the *same* signed transaction is sent again: a ledger takes each
transaction id once.

    async with Gateway(endpoint, signer, "fed") as gateway:
        committed = await gateway.submit("app", "Put", "key", b"value")
        value = await gateway.evaluate("app", "Get", "key")
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final, Self

import grpc
import grpc.aio
from fabric_protos.common import ledger_pb2
from fabric_protos.gateway import gateway_pb2
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer import transaction_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client.deliver import read_blocks, read_height, seek_from, seek_newest, sign_seek
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.events import ChaincodeEvent, Checkpoint, EventStream, Position, follow_blocks
from blockfl.fabric.client.stages import Committed, Endorsed, Status, Timeouts
from blockfl.fabric.client.status import gateway_error, has_unknown_outcome, malformed_answer
from blockfl.fabric.encoding.wire import encode_bytes, encode_prefix, scan_fields
from blockfl.fabric.errors import (
    BlockError,
    CommitError,
    CommitStatusError,
    EndorseError,
    EvaluateError,
    FabricError,
    GatewayError,
    SubmitError,
)
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.transaction.envelope import Proposal, Transaction, build_proposal, decode_transaction, sign_envelope

__all__ = ["Committed", "Endorsed", "Gateway", "Status", "Timeouts"]

_SERVICE: Final = "/gateway.Gateway/"
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 2.0
_NO_PEERS_YET: Final = "no combination of peers can be derived"
# What ordering nodes say of a transaction that they have: in their pool, or in a block (SmartBFT's request pool).
_HELD: Final = ("request already exists", "request already processed")
# How long to ask for the outcome of a transaction before sending it again.
_GLANCE_S: Final = 2.0


class Gateway:
    """A client of one peer's Gateway service on one channel, as one identity.

    Args:
        endpoint: the peer; that of one's own organisation for transient data.
        signer: who asks.
        channel: name of the channel.
        timeouts: how long to wait for each stage.
    """

    def __init__(self, endpoint: Endpoint, signer: Signer, channel: str, *, timeouts: Timeouts | None = None) -> None:
        self.endpoint = endpoint
        self.signer = signer
        self.channel = channel
        self.timeouts = timeouts or Timeouts()
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Open the channel; the first call connects."""
        self._channel = self.endpoint.open_channel()
        return self

    async def __aexit__(self, *_: object) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    # Whole transactions

    async def evaluate(
        self,
        chaincode: str,
        function: str,
        *args: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        organisations: Sequence[str] = (),
        retries: int = 3,
    ) -> bytes:
        """Run a function at one peer and return its result; nothing is ordered.

        Args:
            chaincode: its name.
            function: name of the function.
            args: its arguments.
            transient: data that must not become part of a transaction.
            organisations: MSP ids of which one peer is to run it; the gateway's own peer by default.
            retries: how often to try again when the peer cannot be reached.

        Raises:
            EvaluateError: the contract or the peer refuses, or nobody answers in time.
        """
        proposal = self.propose(chaincode, function, *args, transient=transient)
        request = _proposal_request(proposal, organisations)
        what = f"cannot evaluate {function} of {chaincode}"
        answer = await self._call_patiently(
            EvaluateError, what, "Evaluate", request, self.timeouts.evaluate_s, proposal.tx_id, retries
        )
        try:
            return _read_result(answer)
        except ValueError as error:
            raise _malformed(EvaluateError, what, proposal.tx_id) from error

    async def submit(
        self,
        chaincode: str,
        function: str,
        *args: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        organisations: Sequence[str] = (),
        retries: int = 3,
    ) -> Committed:
        """Have a transaction endorsed and ordered, and wait until it is valid on the ledger.

        Args:
            chaincode: its name.
            function: name of the function.
            args: its arguments.
            transient: data for the endorsers only.
            organisations: MSP ids that must endorse; chosen by the policies by default.
            retries: how often to try again when the peer cannot be reached or the outcome is unknown.

        Raises:
            EndorseError: not endorsed; nothing was ordered.
            SubmitError: refused by the orderers.
            CommitStatusError: sent, outcome unknown: submitting the same again is safe.
            CommitError: on the ledger, but invalid.
        """
        proposal = self.propose(chaincode, function, *args, transient=transient)
        return await self.commit(await self.endorse(proposal, organisations, retries=retries), retries=retries)

    # The stages one by one

    def propose(
        self, chaincode: str, function: str, *args: str | bytes, transient: Mapping[str, bytes] | None = None
    ) -> Proposal:
        """Make and sign a proposal."""
        encoded = [a.encode() if isinstance(a, str) else a for a in (function, *args)]
        return build_proposal(self.channel, chaincode, encoded, self.signer, transient)

    async def endorse(self, proposal: Proposal, organisations: Sequence[str] = (), *, retries: int = 3) -> Endorsed:
        """Collect endorsements and sign the transaction that they make.

        Raises:
            EndorseError: the contract refuses, endorsers disagree, or not enough of them answer.
        """
        what = f"cannot endorse {_function(proposal)} of {proposal.chaincode}"
        answer = await self._call_patiently(
            EndorseError,
            what,
            "Endorse",
            _proposal_request(proposal, organisations),
            self.timeouts.endorse_s,
            proposal.tx_id,
            retries,
        )
        try:
            response = gateway_pb2.EndorseResponse.FromString(answer)
            prepared = response.prepared_transaction
            transaction = decode_transaction(prepared.SerializeToString())
        except (DecodeError, BlockError) as error:
            raise _malformed(EndorseError, what, proposal.tx_id) from error
        if (transaction.tx_id, transaction.creator, transaction.chaincode, transaction.args) != (
            proposal.tx_id,
            self.signer.identity.serialized,
            proposal.chaincode,
            proposal.args,
        ):
            raise EndorseError(
                f"{what}: the gateway returned another transaction than the one proposed ({proposal.tx_id}), "
                "nothing was signed; do not trust this gateway",
                status=grpc.StatusCode.DATA_LOSS,
                transaction_id=proposal.tx_id,
            )
        return Endorsed(
            transaction_id=proposal.tx_id,
            payload=transaction.response_payload,
            envelope=sign_envelope(prepared.payload, self.signer),
            event=_event(transaction),
        )

    async def send(self, endorsed: Endorsed) -> None:
        """Send a transaction to the orderers; how it ends only `commit_status` tells.

        Raises:
            SubmitError: the orderers did not acknowledge it (`has_unknown_outcome` tells whether they may have it).
        """
        request = b"".join(
            (
                encode_bytes(1, endorsed.transaction_id.encode()),
                encode_bytes(2, self.channel.encode()),
                encode_bytes(3, endorsed.envelope),
            )
        )
        what = f"cannot submit transaction {endorsed.transaction_id}"
        await self._call(SubmitError, what, "Submit", request, self.timeouts.submit_s, endorsed.transaction_id)

    async def commit_status(self, transaction_id: str, *, timeout_s: float | None = None) -> Status:
        """Wait until a transaction is on the ledger and tell whether it is valid.

        Raises:
            CommitStatusError: not known in time.
        """
        request = gateway_pb2.CommitStatusRequest(
            transaction_id=transaction_id, channel_id=self.channel, identity=self.signer.identity.serialized
        ).SerializeToString()
        signed = gateway_pb2.SignedCommitStatusRequest(request=request, signature=self.signer.sign(request))
        what = f"the outcome of transaction {transaction_id} is unknown, submitting the same one again is safe"
        answer = await self._call(
            CommitStatusError,
            what,
            "CommitStatus",
            signed.SerializeToString(),
            self.timeouts.commit_s if timeout_s is None else timeout_s,
            transaction_id,
        )
        try:
            response = gateway_pb2.CommitStatusResponse.FromString(answer)
        except DecodeError as error:
            raise _malformed(CommitStatusError, what, transaction_id) from error
        names = transaction_pb2.TxValidationCode
        known = response.result in names.values()
        return Status(
            transaction_id=transaction_id,
            code=response.result,
            code_name=names.Name(response.result) if known else "UNKNOWN",
            block_number=response.block_number,
        )

    async def commit(self, endorsed: Endorsed, *, retries: int = 3) -> Committed:
        """Send a transaction and wait for its outcome; while that is unknown, send the same one again.

        Raises:
            SubmitError: refused by the orderers.
            CommitStatusError: still unknown after the last attempt.
            CommitError: on the ledger, but invalid.
        """
        status = await self._settle(endorsed, retries)
        if status.code == int(transaction_pb2.DUPLICATE_TXID):
            # The fate of a repetition; the first copy's is what counts, and the ledger knows it by now.
            status = await self.commit_status(endorsed.transaction_id)
        if not status.is_valid:
            raise CommitError(
                transaction_id=endorsed.transaction_id,
                code=status.code,
                code_name=status.code_name,
                block_number=status.block_number,
            )
        event = endorsed.event
        return Committed(
            payload=endorsed.payload,
            transaction_id=endorsed.transaction_id,
            block_number=status.block_number,
            event=None if event is None else _in_block(event, status.block_number),
        )

    # Events and blocks

    def events(
        self, chaincode: str, *, start_block: int | None = None, checkpoint: Checkpoint | None = None
    ) -> EventStream:
        """The chaincode's events, without end and across broken connections.

        Args:
            chaincode: its name.
            start_block: first block to read; None: those that come from now on.
            checkpoint: where to go on after a restart; has precedence once it holds a position.
        """

        def open_events(position: Position) -> AsyncIterator[bytes]:
            return self._read_events(chaincode, position)

        return EventStream(open_events, self.height, start_block=start_block, checkpoint=checkpoint)

    def blocks(self, start: int = 0, *, checkpoint: Checkpoint | None = None) -> AsyncIterator[Any]:
        """Blocks (common.Block) from a number on, without end and across broken connections.

        Args:
            start: number of the first block.
            checkpoint: where to go on after a restart; has precedence once it holds a position.
        """

        def read_from(number: int) -> AsyncIterator[Any]:
            request = sign_seek(seek_from(number), self.channel, self.signer, self.endpoint.client_certificate_hash)
            return read_blocks(self._opened, request)

        return follow_blocks(read_from, start, checkpoint=checkpoint)

    async def height(self) -> int:
        """Return how many blocks the peer holds.

        Raises:
            GatewayError: the peer refuses or cannot be reached.
        """
        seek = sign_seek(seek_newest(), self.channel, self.signer, self.endpoint.client_certificate_hash)
        return await read_height(self._opened, seek)

    async def peer_height(self, organisation: str) -> int:
        """Return how many blocks a peer of some organisation holds; the gateway asks it.

        Args:
            organisation: its MSP id.

        Raises:
            EvaluateError: no peer of the organisation answers.
        """
        answer = await self.evaluate("qscc", "GetChainInfo", self.channel, organisations=(organisation,), retries=0)
        try:
            return int(ledger_pb2.BlockchainInfo.FromString(answer).height)
        except DecodeError as error:
            raise _malformed(EvaluateError, f"cannot read the height at {organisation}", "") from error

    @property
    def _opened(self) -> grpc.aio.Channel:
        if self._channel is None:
            raise FabricError("the gateway is not open: use it inside `async with`")
        return self._channel

    async def _call(
        self, kind: type[GatewayError], what: str, method: str, request: bytes, timeout_s: float, transaction_id: str
    ) -> bytes:
        # Untyped: the type stubs want serialisers, and without them gRPC takes and gives bytes.
        channel: Any = self._opened
        try:
            answer: bytes = await channel.unary_unary(_SERVICE + method)(request, timeout=timeout_s)
            return answer
        except grpc.aio.AioRpcError as error:
            raise gateway_error(kind, what, error, transaction_id) from error

    async def _call_patiently(
        self,
        kind: type[GatewayError],
        what: str,
        method: str,
        request: bytes,
        timeout_s: float,
        transaction_id: str,
        retries: int,
    ) -> bytes:
        """Call a stage that orders nothing; try again while the peer cannot be reached or is only just back."""
        for attempt in range(retries):
            try:
                return await self._call(kind, what, method, request, timeout_s, transaction_id)
            except GatewayError as error:
                if not self._may_pass(error):
                    raise
            await _pause(attempt)
        return await self._call(kind, what, method, request, timeout_s, transaction_id)

    def _may_pass(self, error: GatewayError) -> bool:
        if error.status == grpc.StatusCode.UNAVAILABLE:
            # Over a connection that stands it is the gateway's own answer: it lacks the endorsers asked for.
            return self._opened.get_state() != grpc.ChannelConnectivity.READY
        # A peer that was restarted does not know the others yet.
        return error.status == grpc.StatusCode.FAILED_PRECONDITION and _NO_PEERS_YET in str(error)

    async def _settle(self, endorsed: Endorsed, retries: int) -> Status:
        """Send, ask, and send again until the ledger knows the transaction."""
        for attempt in range(retries + 1):
            try:
                await self._bring(endorsed)
                return await self.commit_status(endorsed.transaction_id)
            except (SubmitError, CommitStatusError) as error:
                if not has_unknown_outcome(error):
                    raise
                if attempt == retries:
                    raise _unknown(error, endorsed) from error
                failed_to_send = isinstance(error, SubmitError)
            await _pause(attempt)
            if failed_to_send:
                try:
                    return await self.commit_status(
                        endorsed.transaction_id, timeout_s=min(_GLANCE_S, self.timeouts.commit_s)
                    )
                except CommitStatusError:
                    continue
        raise AssertionError("unreachable")

    async def _bring(self, endorsed: Endorsed) -> None:
        """Send; what ordering nodes have already needs no sending, however few of them take it again."""
        try:
            await self.send(endorsed)
        except SubmitError as error:
            if not any(text in detail.message for detail in error.details for text in _HELD):
                raise

    async def _read_events(self, chaincode: str, position: Position) -> AsyncIterator[bytes]:
        request = gateway_pb2.ChaincodeEventsRequest(
            channel_id=self.channel,
            chaincode_id=chaincode,
            identity=self.signer.identity.serialized,
            start_position=ab_pb2.SeekPosition(specified=ab_pb2.SeekSpecified(number=position.block_number)),
            after_transaction_id=position.transaction_id,
        ).SerializeToString()
        signed = gateway_pb2.SignedChaincodeEventsRequest(request=request, signature=self.signer.sign(request))
        channel: Any = self._opened
        call = channel.unary_stream(_SERVICE + "ChaincodeEvents")(signed.SerializeToString())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise gateway_error(GatewayError, f"cannot read the events of {chaincode}", error) from error
        finally:
            call.cancel()


async def _pause(attempt: int) -> None:
    await asyncio.sleep(min(_FIRST_PAUSE_S * 2**attempt, _LONGEST_PAUSE_S))


def _proposal_request(proposal: Proposal, organisations: Sequence[str]) -> bytes:
    """EvaluateRequest and EndorseRequest, which have the same fields; proposals of megabytes are joined once."""
    signature = encode_bytes(2, proposal.signature)
    prefix = encode_prefix(1, len(proposal.proposal_bytes))
    return b"".join(
        (
            encode_bytes(1, proposal.tx_id.encode()),
            encode_bytes(2, proposal.channel.encode()),
            encode_prefix(3, len(prefix) + len(proposal.proposal_bytes) + len(signature)),
            prefix,
            proposal.proposal_bytes,
            signature,
            *(encode_bytes(4, msp_id.encode()) for msp_id in organisations),
        )
    )


def _read_result(answer: bytes) -> bytes:
    """The payload of an EvaluateResponse's result, copied once."""
    result = memoryview(b"")
    for number, value in scan_fields(memoryview(answer)):
        if number == 1 and isinstance(value, memoryview):
            result = value
    payload = memoryview(b"")
    for number, value in scan_fields(result):
        if number == 3 and isinstance(value, memoryview):
            payload = value
    return bytes(payload)


def _function(proposal: Proposal) -> str:
    return proposal.args[0].decode(errors="replace") if proposal.args else "a call"


def _event(transaction: Transaction) -> ChaincodeEvent | None:
    event = transaction.event
    if event is None or not event.name:
        return None
    return ChaincodeEvent(
        chaincode=event.chaincode,
        name=event.name,
        payload=event.payload,
        transaction_id=event.tx_id,
        block_number=-1,
    )


def _in_block(event: ChaincodeEvent, number: int) -> ChaincodeEvent:
    return ChaincodeEvent(
        chaincode=event.chaincode,
        name=event.name,
        payload=event.payload,
        transaction_id=event.transaction_id,
        block_number=number,
    )


def _unknown(error: GatewayError, endorsed: Endorsed) -> CommitStatusError:
    """The error after the last attempt: whatever failed, the transaction may be on the ledger."""
    if isinstance(error, CommitStatusError):
        return error
    return CommitStatusError(
        f"the outcome of transaction {endorsed.transaction_id} is unknown, submitting the same one again is safe: "
        f"{error}",
        status=error.status,
        details=error.details,
        transaction_id=endorsed.transaction_id,
    )


def _malformed(kind: type[GatewayError], what: str, transaction_id: str) -> GatewayError:
    service = "the Gateway service of a Fabric peer"
    return malformed_answer(kind, what, service, grpc.StatusCode.INTERNAL, transaction_id)
