"""The Gateway client: evaluate and submit transactions, follow events and blocks, through one peer.

Owns the stages of a transaction and what a failure of each means. Before the orderers have it a failure changes
nothing; after that the outcome may be unknown, and the *same* signed transaction is sent again (`outcome`).

    async with Gateway(endpoint, signer, "fed") as gateway:
        committed = await gateway.submit("app", "Put", "key", b"value")
        value = await gateway.evaluate("app", "Get", "key")

Who signs elsewhere takes `new_proposal` and the other requests that are signed as bytes (`signable`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Self, cast

import grpc
import grpc.aio
from fabric_protos.common import ledger_pb2
from fabric_protos.gateway import gateway_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client import calls, signable
from blockfl.fabric.client.connection import AnySigner, Connection
from blockfl.fabric.client.deliver import read_height, seek_from, seek_newest, seek_next, seek_one
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.events import Checkpoint, Position
from blockfl.fabric.client.outcome import settle
from blockfl.fabric.client.signable import BLOCKS, FILTERED_BLOCKS, PRIVATE_BLOCKS
from blockfl.fabric.client.stages import Committed, Endorsed, Status, Timeouts
from blockfl.fabric.client.streams import BlockStream, EventStream
from blockfl.fabric.errors import CommitError, EvaluateError, GatewayError, IdentityError
from blockfl.fabric.identity.signing import Identity, MessageSigner, Signer
from blockfl.fabric.transaction.envelope import Proposal, draft_proposal, encode_envelope

__all__ = ["Committed", "Endorsed", "Gateway", "Status", "Timeouts"]


class Gateway:
    """A client of one peer's Gateway service on one channel, as one identity.

    Args:
        endpoint: the peer; that of one's own organisation for transient data.
        signer: who asks: a `Signer`, a `CallbackSigner`, a token; or an `Identity` alone, to sign offline.
        channel: name of the channel.
        timeouts: how long to wait for each kind of call, where the call does not say.
        connection: a gRPC channel to use instead of opening one: several identities and channels may share it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        signer: AnySigner,
        channel: str,
        *,
        timeouts: Timeouts | None = None,
        connection: grpc.aio.Channel | None = None,
    ) -> None:
        self.channel = channel
        self._connection = Connection(endpoint, signer, timeouts or Timeouts(), connection)

    async def __aenter__(self) -> Self:
        """Open the connection; the first call connects."""
        self._connection.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    @property
    def endpoint(self) -> Endpoint:
        """The peer."""
        return self._connection.endpoint

    @property
    def identity(self) -> Identity:
        """Who asks."""
        return self._connection.identity

    @property
    def timeouts(self) -> Timeouts:
        """How long each kind of call may take."""
        return self._connection.timeouts

    @property
    def signer(self) -> MessageSigner:
        """Who signs, where signatures are there at once.

        Raises:
            IdentityError: they have to be asked for.
        """
        signer = self._connection.signer
        if isinstance(signer, Identity) or not hasattr(signer, "sign"):
            raise IdentityError(f"expected a signer of {self.identity.msp_id} that has its key at hand, got none")
        return cast("MessageSigner", signer)

    async def evaluate(
        self,
        chaincode: str,
        function: str,
        *args: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        organisations: Sequence[str] = (),
        retries: int = 3,
        timeout_s: float | None = None,
    ) -> bytes:
        """Run a function at one peer and return its result; nothing is ordered.

        Args:
            chaincode: its name.
            function: name of the function.
            args: its arguments.
            transient: data that must not become part of a transaction.
            organisations: MSP ids of which one peer is to run it; the gateway's own peer by default.
            retries: how often to try again when the peer is away; if not 0, it waits for a busy one, too.
            timeout_s: how long each attempt may take, in seconds.

        Raises:
            EvaluateError: the contract or the peer refuses, or nobody answers in time.
        """
        proposal = self.propose(chaincode, function, *args, transient=transient)
        return await self._signable(proposal, organisations).evaluate(timeout_s=timeout_s, retries=retries)

    async def submit(
        self,
        chaincode: str,
        function: str,
        *args: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        organisations: Sequence[str] = (),
        retries: int = 3,
        timeouts: Timeouts | None = None,
    ) -> Committed:
        """Have a transaction endorsed and ordered, and wait until it is valid on the ledger.

        Args:
            chaincode: its name.
            function: name of the function.
            args: its arguments.
            transient: data for the endorsers only.
            organisations: MSP ids that must endorse; chosen by the policies by default.
            retries: how often to try again when the peer cannot be reached or the outcome is unknown.
            timeouts: how long each stage may take; the gateway's own by default.

        Raises:
            EndorseError: not endorsed; nothing was ordered.
            SubmitError: refused by the orderers.
            CommitStatusError: sent, outcome unknown: submitting the same again is safe.
            CommitError: on the ledger, but invalid.
        """
        limits = timeouts or self.timeouts
        proposal = self.propose(chaincode, function, *args, transient=transient)
        endorsed = await self.endorse(proposal, organisations, retries=retries, timeout_s=limits.endorse_s)
        return await self.commit(endorsed, retries=retries, timeouts=limits)

    async def submit_async(
        self,
        chaincode: str,
        function: str,
        *args: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        organisations: Sequence[str] = (),
        timeouts: Timeouts | None = None,
    ) -> signable.SignableCommit:
        """Have a transaction endorsed and sent once, and return before it is on the ledger; the rest as `submit`.

        Returns:
            Its result, and `read_status`.

        Raises:
            EndorseError: not endorsed; nothing was ordered.
            SubmitError: the orderers did not acknowledge it.
        """
        limits = timeouts or self.timeouts
        proposal = self.propose(chaincode, function, *args, transient=transient)
        transaction = await self._signable(proposal, organisations).endorse(timeout_s=limits.endorse_s)
        return await transaction.submit(timeout_s=limits.submit_s)

    # The stages one by one

    def propose(
        self, chaincode: str, function: str, *args: str | bytes, transient: Mapping[str, bytes] | None = None
    ) -> Proposal:
        """Make a proposal, and sign it where the key is at hand; else it is signed before it is sent."""
        encoded = [a.encode() if isinstance(a, str) else a for a in (function, *args)]
        proposal = draft_proposal(self.channel, chaincode, encoded, self.identity, transient)
        signer = self._connection.signer
        return (
            replace(proposal, signature=signer.sign(proposal.proposal_bytes))
            if isinstance(signer, Signer)
            else proposal
        )

    async def endorse(
        self,
        proposal: Proposal,
        organisations: Sequence[str] = (),
        *,
        retries: int = 3,
        timeout_s: float | None = None,
    ) -> Endorsed:
        """Collect endorsements and sign the transaction that they make.

        Raises:
            EndorseError: the contract refuses, endorsers disagree, or not enough of them answer.
        """
        prepared = await self._signable(proposal, organisations).endorse(timeout_s=timeout_s, retries=retries)
        return Endorsed(
            transaction_id=prepared.transaction_id,
            payload=prepared.result,
            envelope=encode_envelope(prepared.message, await self._connection.sign(prepared.message)),
            event=prepared.event,
        )

    async def send(self, endorsed: Endorsed, *, timeout_s: float | None = None) -> None:
        """Send a transaction to the orderers; how it ends only `commit_status` tells.

        Raises:
            SubmitError: the orderers did not acknowledge it (`has_unknown_outcome` tells whether they may have it).
        """
        limit_s = self.timeouts.submit_s if timeout_s is None else timeout_s
        await calls.send(self._connection, self.channel, endorsed.transaction_id, endorsed.envelope, limit_s)

    async def commit_status(self, transaction_id: str, *, timeout_s: float | None = None) -> Status:
        """Wait until a transaction is on the ledger and tell whether it is valid.

        Raises:
            CommitStatusError: not known in time.
        """
        return await self.new_commit(transaction_id).read_status(timeout_s=timeout_s)

    async def commit(self, endorsed: Endorsed, *, retries: int = 3, timeouts: Timeouts | None = None) -> Committed:
        """Send a transaction and wait for its outcome; while that is unknown, send the same one again.

        Raises:
            SubmitError: refused by the orderers.
            CommitStatusError: still unknown after the last attempt.
            CommitError: on the ledger, but invalid.
        """
        limits = timeouts or self.timeouts
        status = await settle(
            endorsed.transaction_id,
            lambda: self.send(endorsed, timeout_s=limits.submit_s),
            lambda timeout_s: self.commit_status(endorsed.transaction_id, timeout_s=timeout_s),
            timeout_s=limits.commit_s,
            retries=retries,
        )
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
            event=None if event is None else replace(event, block_number=status.block_number),
        )

    # Events and blocks, across broken connections

    def events(
        self,
        chaincode: str,
        *,
        start_block: int | None = None,
        checkpoint: Checkpoint | None = None,
        timeout_s: float | None = None,
    ) -> EventStream:
        """The chaincode's events, without end and across broken connections.

        Args:
            chaincode: its name.
            start_block: first block to read; None: those that come from now on.
            checkpoint: where to go on after a restart; has precedence once it holds a position.
            timeout_s: how long all may take together, in seconds.
        """

        async def open_events(position: Position, left_s: float | None) -> AsyncGenerator[bytes, None]:
            request = calls.build_events_request(self._connection, self.channel, chaincode, position)
            signed = gateway_pb2.SignedChaincodeEventsRequest(
                request=request, signature=await self._connection.sign(request)
            ).SerializeToString()
            what = f"cannot read the events of {chaincode}"
            async with aclosing(self._connection.read_events(signed, what, left_s)) as answers:
                async for answer in answers:
                    yield answer

        limit_s = self.timeouts.events_s if timeout_s is None else timeout_s
        return EventStream(
            "chaincode events",
            open_events,
            self.height,
            start_block=start_block,
            checkpoint=checkpoint,
            timeout_s=limit_s,
        )

    def blocks(
        self, start: int | None = 0, *, checkpoint: Checkpoint | None = None, timeout_s: float | None = None
    ) -> BlockStream:
        """Blocks (common.Block) from a number on, without end and across broken connections.

        Args:
            start: number of the first block; None: those that come from now on.
            checkpoint: where to go on after a restart; has precedence once it holds a position.
            timeout_s: how long all may take together, in seconds.
        """
        return self._follow(BLOCKS, start, checkpoint, timeout_s)

    def filtered_blocks(
        self, start: int | None = None, *, checkpoint: Checkpoint | None = None, timeout_s: float | None = None
    ) -> BlockStream:
        """Blocks without payloads (protos.FilteredBlock): ids, codes, names of events; the rest as `blocks`."""
        return self._follow(FILTERED_BLOCKS, start, checkpoint, timeout_s)

    def private_blocks(
        self, start: int | None = None, *, checkpoint: Checkpoint | None = None, timeout_s: float | None = None
    ) -> BlockStream:
        """Blocks with the private data that the peer may show (protos.BlockAndPrivateData); the rest as `blocks`."""
        return self._follow(PRIVATE_BLOCKS, start, checkpoint, timeout_s)

    async def height(self) -> int:
        """Return how many blocks the peer holds.

        Raises:
            GatewayError: the peer refuses or cannot be reached.
        """
        return await self._height(BLOCKS)

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
            raise calls.malformed(EvaluateError, f"cannot read the height at {organisation}", "") from error

    # Requests that may be signed elsewhere, made and rebuilt

    def new_proposal(
        self,
        chaincode: str,
        function: str,
        *args: str | bytes,
        transient: Mapping[str, bytes] | None = None,
        organisations: Sequence[str] = (),
    ) -> signable.SignableProposal:
        """A proposal that is still to be signed; the arguments are those of `submit`."""
        encoded = [a.encode() if isinstance(a, str) else a for a in (function, *args)]
        return self._signable(draft_proposal(self.channel, chaincode, encoded, self.identity, transient), organisations)

    def new_commit(self, transaction_id: str) -> signable.SignableCommit:
        """A request for a transaction's outcome."""
        request = calls.build_status_request(self._connection, self.channel, transaction_id)
        return signable.SignableCommit(connection=self._connection, message=request, transaction_id=transaction_id)

    def new_events(
        self, chaincode: str, *, start_block: int | None = None, checkpoint: Checkpoint | None = None
    ) -> signable.SignableEvents:
        """A request for chaincode events; where it begins is as in `events`, and fixed now."""
        request = calls.build_events_request(self._connection, self.channel, chaincode, _begin(start_block, checkpoint))
        return signable.SignableEvents(connection=self._connection, message=request, chaincode=chaincode)

    def new_blocks(
        self, kind: str = BLOCKS, *, start_block: int | None = None, checkpoint: Checkpoint | None = None
    ) -> signable.SignableBlocks:
        """A request for blocks of a kind (`signable.BLOCKS`, …); where it begins is fixed now."""
        position = _begin(start_block, checkpoint)
        return self._ask_blocks(kind, seek_next() if position is None else seek_from(position.block_number))

    async def private_block(self, number: int, *, timeout_s: float) -> Any:
        """Return one block with the private data that the peer may show (protos.BlockAndPrivateData).

        Raises:
            GatewayError: the peer refuses or lacks it, or the connection broke.
        """
        async with aclosing(self._ask_blocks(PRIVATE_BLOCKS, seek_one(number)).read(timeout_s=timeout_s)) as blocks:
            async for block in blocks:
                return block
        raise GatewayError(f"block {number}: the peer sent none", status=grpc.StatusCode.NOT_FOUND)

    def proposal_from(self, content: bytes) -> signable.SignableProposal:
        """Rebuild a proposal from its bytes, here or from an official client. Raises BlockError as all of these."""
        return signable.proposal_from(self._connection, content)

    def transaction_from(self, content: bytes) -> signable.SignableTransaction:
        """Rebuild an endorsed transaction from its bytes."""
        return signable.transaction_from(self._connection, content)

    def commit_from(self, content: bytes) -> signable.SignableCommit:
        """Rebuild a request for an outcome from its bytes."""
        return signable.commit_from(self._connection, content)

    def events_from(self, content: bytes) -> signable.SignableEvents:
        """Rebuild a request for chaincode events from its bytes."""
        return signable.events_from(self._connection, content)

    def blocks_from(self, content: bytes, kind: str = BLOCKS) -> signable.SignableBlocks:
        """Rebuild a request for blocks of a kind from its bytes."""
        return signable.blocks_from(self._connection, content, kind)

    def _ask_blocks(self, kind: str, seek: Any) -> signable.SignableBlocks:
        message = self._connection.build_seek(seek, self.channel)
        return signable.SignableBlocks(connection=self._connection, message=message, kind=kind)

    def _signable(self, proposal: Proposal, organisations: Sequence[str]) -> signable.SignableProposal:
        return signable.SignableProposal(
            connection=self._connection,
            message=proposal.proposal_bytes,
            signature=proposal.signature,
            proposal=proposal,
            organisations=tuple(organisations),
        )

    def _follow(
        self, kind: str, start: int | None, checkpoint: Checkpoint | None, timeout_s: float | None
    ) -> BlockStream:
        return BlockStream(
            "blocks",
            lambda position, left_s: self._connection.seek(
                seek_from(position.block_number), self.channel, kind, left_s
            ),
            lambda: self._height(kind),
            start_block=start,
            checkpoint=checkpoint,
            timeout_s=signable.blocks_limit_s(self._connection, kind) if timeout_s is None else timeout_s,
        )

    async def _height(self, kind: str) -> int:
        request = await self._connection.sign_seek(seek_newest(), self.channel)
        return await read_height(self._connection.channel, request, method=kind)


def _begin(start_block: int | None, checkpoint: Checkpoint | None) -> Position | None:
    recorded = checkpoint.load() if checkpoint else None
    return recorded or (None if start_block is None else Position(block_number=start_block))
