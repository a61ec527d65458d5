"""A peer's Endorser service, asked directly: for lifecycle and system chaincodes, which no gateway serves.

async with Endorser(endpoint, admin) as endorser:
    channels = await endorser.query("", "cscc", "GetChannels")
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, Self

import grpc
import grpc.aio
from fabric_protos.peer import proposal_response_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.status import gateway_error, malformed_answer
from blockfl.fabric.encoding.wire import encode_bytes
from blockfl.fabric.errors import EndorseError, ErrorDetail, FabricError
from blockfl.fabric.identity.signing import MessageSigner
from blockfl.fabric.transaction.envelope import Proposal, build_proposal

_PROCESS_PROPOSAL: Final = "/protos.Endorser/ProcessProposal"


class Endorser:
    """A client of one peer's Endorser service, as one identity.

    Args:
        endpoint: the peer.
        signer: who asks; many lifecycle functions want an administrator.
        timeout_s: how long one call may take, in seconds.
    """

    def __init__(self, endpoint: Endpoint, signer: MessageSigner, *, timeout_s: float = 60.0) -> None:
        self.endpoint = endpoint
        self.signer = signer
        self._timeout_s = timeout_s
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Open the channel; the first call connects."""
        self._channel = self.endpoint.open_channel()
        return self

    async def __aexit__(self, *_: object) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)

    async def process(self, proposal: Proposal) -> Any:
        """Have a proposal simulated and endorsed.

        Returns:
            A successful protos.ProposalResponse.

        Raises:
            EndorseError: the peer or the chaincode refuses, or the peer cannot be reached.
        """
        if self._channel is None:
            raise FabricError("the endorser is not open: use it inside `async with`")
        function = proposal.args[0].decode(errors="replace") if proposal.args else "a call"
        what = f"{self.endpoint.address} does not endorse {function} of {proposal.chaincode}"
        request = encode_bytes(1, proposal.proposal_bytes) + encode_bytes(2, proposal.signature)
        # Untyped: the type stubs want serialisers, and without them gRPC takes and gives bytes.
        channel: Any = self._channel
        try:
            answer = await channel.unary_unary(_PROCESS_PROPOSAL)(request, timeout=self._timeout_s)
            response = proposal_response_pb2.ProposalResponse.FromString(answer)
        except grpc.aio.AioRpcError as error:
            raise gateway_error(EndorseError, what, error, proposal.tx_id) from error
        except DecodeError as error:
            status = grpc.StatusCode.INTERNAL
            raise malformed_answer(EndorseError, what, "a Fabric peer", status, proposal.tx_id) from error
        if not 200 <= response.response.status < 400:
            raise EndorseError(
                f"{what}: {response.response.message} (status {response.response.status})",
                status=grpc.StatusCode.ABORTED,
                transaction_id=proposal.tx_id,
            )
        return response

    async def query(
        self, channel: str, chaincode: str, function: str, *args: str | bytes, clock_offset_s: int = 0
    ) -> bytes:
        """Run a function of a (system) chaincode and return its result; nothing is ordered.

        Args:
            channel: name of the channel, "" for what belongs to none.
            chaincode: e.g. "qscc", "cscc" or "_lifecycle".
            function: name of the function.
            args: its arguments.
            clock_offset_s: how far the proposal's stated time is from now.

        Raises:
            EndorseError: as `process`.
        """
        encoded = [a.encode() if isinstance(a, str) else a for a in (function, *args)]
        stated_ms = time.time_ns() // 1_000_000 + 1000 * clock_offset_s
        proposal = build_proposal(channel, chaincode, encoded, self.signer, timestamp_ms=stated_ms)
        response = await self.process(proposal)
        return bytes(response.response.payload)


async def collect_endorsements(proposal: Proposal, endorsers: Sequence[Endorser]) -> list[Any]:
    """Have one proposal endorsed by several peers at once.

    Returns:
        Their protos.ProposalResponse, in the endorsers' order.

    Raises:
        EndorseError: one of them refuses; the details hold what each of those answered.
    """
    answers = await asyncio.gather(*(e.process(proposal) for e in endorsers), return_exceptions=True)
    responses: list[Any] = []
    details: list[ErrorDetail] = []
    for endorser, answer in zip(endorsers, answers, strict=True):
        if isinstance(answer, EndorseError):
            details.append(ErrorDetail(address=endorser.endpoint.address, msp_id="", message=str(answer)))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            responses.append(answer)
    if details:
        raise EndorseError(
            f"expected {len(endorsers)} peers to endorse transaction {proposal.tx_id}, {len(details)} did not",
            status=grpc.StatusCode.ABORTED,
            details=details,
            transaction_id=proposal.tx_id,
        )
    return responses
