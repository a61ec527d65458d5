"""The Endorser service at one organisation's endpoint: ProcessProposal, for the lifecycle and the `peer` command."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import grpc
from fabric_protos.peer import proposal_response_pb2

from blockfl.fabric.embedded.endorsing.admission import Admission, Refused, UnknownChannel
from blockfl.fabric.embedded.endorsing.endorser import EndorserFailure, EndorsingPeer
from blockfl.fabric.embedded.endorsing.fairness import Crowded, Turns
from blockfl.fabric.embedded.endorsing.proposal import SignedProposal
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger, Snapshot
from blockfl.fabric.embedded.services.rpc import RpcError, service
from blockfl.fabric.errors import BlockError

_ERROR = 500


class EndorserService:
    """Serves proposals to one organisation's peer.

    Args:
        endorser: The organisation's endorser.
        ledger: The channel's ledger.
        admission: Judges requests.
        turns: Of all organisations that call the node.
    """

    def __init__(self, *, endorser: EndorsingPeer, ledger: ChannelLedger, admission: Admission, turns: Turns) -> None:
        self._endorser = endorser
        self._ledger = ledger
        self._admission = admission
        self._turns = turns

    def handler(self) -> Any:
        """Returns the gRPC handler of `protos.Endorser`."""
        return service("protos.Endorser", unary={"ProcessProposal": self._process})

    async def _process(self, request: bytes) -> bytes:
        try:
            proposal = SignedProposal.parse(request)
        except BlockError as error:
            raise RpcError(grpc.StatusCode.INVALID_ARGUMENT, f"failed to unpack proposal: {error}") from error
        try:
            creator = self._admission.admit_proposal(proposal, self._endorser.organisation)
        except UnknownChannel as error:
            return _failure(str(error))
        except (Refused, BlockError) as error:
            raise RpcError(grpc.StatusCode.UNKNOWN, f"error validating proposal: {error}") from error
        if proposal.channel and self._ledger.transaction(proposal.tx_id) is not None:
            text = f"duplicate transaction found [{proposal.tx_id}]. Creator [{proposal.creator.hex()}]"
            raise RpcError(grpc.StatusCode.UNKNOWN, text)
        try:
            async with self._turns.take(creator.msp_id):
                with self._snapshot(proposal) as snapshot:
                    answer = await self._endorser.endorse(proposal, creator, snapshot)
        except Crowded as error:
            raise RpcError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error)) from error
        except EndorserFailure as failure:
            return _failure(str(failure))
        return bytes(answer.encode().SerializeToString())

    def _snapshot(self, proposal: SignedProposal) -> AbstractContextManager[Snapshot | None]:
        return self._ledger.snapshot(self._endorser.organisation) if proposal.channel else nullcontext()


def _failure(message: str) -> bytes:
    response = proposal_response_pb2.ProposalResponse()
    response.response.status = _ERROR
    response.response.message = message
    return bytes(response.SerializeToString())
