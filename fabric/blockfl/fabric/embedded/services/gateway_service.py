"""The Gateway service at one organisation's endpoint: evaluate, endorse, submit, commit status, chaincode events.

Owns who is asked to endorse and what a client is told when it does not work out: the status codes, messages and
details of Fabric's gateway.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from fabric_protos.common import common_pb2
from fabric_protos.gateway import gateway_pb2

from blockfl.fabric.embedded.endorsing.admission import AccessDenied, Admission, Refused, Unauthorized, UnknownChannel
from blockfl.fabric.embedded.endorsing.endorser import EndorserAnswer, EndorserFailure, EndorsingPeer
from blockfl.fabric.embedded.endorsing.fairness import Crowded, Turns
from blockfl.fabric.embedded.endorsing.planner import NoPlan, Plan, make_plan
from blockfl.fabric.embedded.endorsing.proposal import SignedProposal, assemble_envelope
from blockfl.fabric.embedded.endorsing.simulator import Interest
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger, Snapshot
from blockfl.fabric.embedded.services.block_reader import BlockReader
from blockfl.fabric.embedded.services.rpc import RpcError, parse, service
from blockfl.fabric.embedded.storage.definition import LIFECYCLE
from blockfl.fabric.encoding.wire import encode_bytes, scan_fields
from blockfl.fabric.errors import BlockError, ErrorDetail, FabricError, IdentityError, NodeError
from blockfl.fabric.identity.signing import Identity

_LOG = logging.getLogger(__name__)
_Code = grpc.StatusCode

_NOT_ENOUGH = "failed to collect enough transaction endorsements, see attached details for more info"
_NOT_ENDORSED = "failed to endorse transaction, see attached details for more info"
_MISMATCH = "ProposalResponsePayloads do not match"


class GatewayService:
    """Serves one organisation's clients.

    Args:
        organisation: MSP id of the organisation whose endpoint this is.
        endorsers: Every organisation's endorser; all are in this process.
        addresses: Every organisation's address, for error details.
        ledger: The channel's ledger.
        admission: Judges requests.
        blocks: Reads events.
        turns: Of all organisations that call the node.
    """

    def __init__(
        self,
        *,
        organisation: str,
        endorsers: Mapping[str, EndorsingPeer],
        addresses: Mapping[str, str],
        ledger: ChannelLedger,
        admission: Admission,
        blocks: BlockReader,
        turns: Turns,
    ) -> None:
        self._own = endorsers[organisation]
        self._endorsers = endorsers
        self._addresses = addresses
        self._ledger = ledger
        self._admission = admission
        self._blocks = blocks
        self._turns = turns

    def handler(self) -> Any:
        """Returns the gRPC handler of `gateway.Gateway`."""
        return service(
            "gateway.Gateway",
            unary={
                "Evaluate": self._evaluate,
                "Endorse": self._endorse,
                "Submit": self._submit,
                "CommitStatus": self._commit_status,
            },
            stream={"ChaincodeEvents": self._chaincode_events},
        )

    # --- evaluate

    async def _evaluate(self, request: bytes) -> bytes:
        proposal, organisations = _read_proposal(request)
        creator = self._admit_evaluation(proposal)
        if proposal.has_transient and not organisations:
            organisations = [self._own.organisation]
        async with self._turn(creator):
            return await self._evaluate_admitted(proposal, creator, organisations)

    async def _evaluate_admitted(
        self, proposal: SignedProposal, creator: Identity, organisations: Sequence[str]
    ) -> bytes:
        with self._ledger.snapshot() as snapshot:
            evaluators = self._evaluators(proposal.chaincode, organisations, snapshot)
        details: list[ErrorDetail] = []
        for endorser in evaluators:
            try:
                # Of the one that is asked alone: opening everybody's private data for each read costs the square.
                with self._ledger.snapshot(endorser.organisation) as snapshot:
                    answer = await endorser.endorse(proposal, creator, snapshot, evaluate=True)
            except EndorserFailure as failure:
                details.append(self._detail(endorser, str(failure)))
                continue
            if answer.succeeded:
                return bytes(_encode_evaluated(answer))
            text = _contract_error(answer)
            raise RpcError(
                _Code.UNKNOWN,
                f"evaluate call to endorser returned error: {text}",
                [*details, self._detail(endorser, text)],
            )
        raise RpcError(_Code.ABORTED, "failed to evaluate transaction, see attached details for more info", details)

    def _evaluators(self, chaincode: str, organisations: Sequence[str], snapshot: Snapshot) -> list[EndorsingPeer]:
        ready = self._ready_endorsers(chaincode, snapshot)
        if organisations:
            ready = [endorser for endorser in ready if endorser.organisation in organisations]
        if not ready:
            raise RpcError(
                _Code.FAILED_PRECONDITION,
                f"no peers available to evaluate chaincode {chaincode} in channel {self._ledger.channel_id}",
            )
        return ready

    # --- endorse

    async def _endorse(self, request: bytes) -> bytes:
        proposal, organisations = _read_proposal(request)
        creator = self._admit(proposal, _Code.ABORTED, _NOT_ENOUGH if organisations else _NOT_ENDORSED)
        if self._ledger.transaction(proposal.tx_id) is not None:
            text = f"duplicate transaction found [{proposal.tx_id}]. Creator [{proposal.creator.hex()}]"
            raise RpcError(_Code.ABORTED, _NOT_ENDORSED, [self._detail(self._own, text)])
        async with self._turn(creator):
            involved = [name for name in organisations or self._endorsers if name in self._endorsers]
            with self._ledger.snapshot(*involved) as snapshot:
                answers = await (
                    self._endorse_by_names(proposal, creator, snapshot, organisations)
                    if organisations
                    else self._endorse_by_policy(proposal, creator, snapshot)
                )
        unique = {answer.organisation: answer for answer in answers}
        envelope = assemble_envelope(proposal, answers[0].payload, [a.endorsement for a in unique.values()])
        return encode_bytes(1, envelope)

    async def _endorse_by_names(
        self, proposal: SignedProposal, creator: Identity, snapshot: Snapshot, organisations: Sequence[str]
    ) -> list[EndorserAnswer]:
        ready = {e.organisation: e for e in self._ready_endorsers(proposal.chaincode, snapshot)}
        missing = [name for name in organisations if name not in ready]
        if missing:
            raise RpcError(_Code.UNAVAILABLE, f"failed to find any endorsing peers for org(s): {', '.join(missing)}")
        chosen = [ready[name] for name in dict.fromkeys(organisations)]
        answers, details = await self._collect(proposal, creator, snapshot, chosen, None)
        if details:
            raise RpcError(_Code.ABORTED, _NOT_ENOUGH, details)
        return answers

    async def _endorse_by_policy(
        self, proposal: SignedProposal, creator: Identity, snapshot: Snapshot
    ) -> list[EndorserAnswer]:
        ready = self._ready_endorsers(proposal.chaincode, snapshot)
        first: EndorserAnswer | None = None
        interest = Interest()
        if self._own in ready:
            answers, details = await self._collect(proposal, creator, snapshot, [self._own], None)
            if details:
                raise RpcError(_Code.ABORTED, _NOT_ENDORSED, details)
            first = answers[0]
            interest = first.interest
        elif proposal.has_transient:
            raise RpcError(
                _Code.FAILED_PRECONDITION,
                "no endorsers found in the gateway's organization; retry specifying endorsing organization(s) to "
                "protect transient data",
            )
        try:
            plan = make_plan(
                proposal.chaincode,
                interest,
                {endorser.organisation: endorser.signer.identity for endorser in ready},
                config=snapshot.config,
                state=snapshot,
                protect_transient=proposal.has_transient,
            )
        except NoPlan as error:
            raise RpcError(_Code.FAILED_PRECONDITION, str(error)) from error
        return await self._follow(plan, proposal, creator, snapshot, first)

    async def _follow(
        self, plan: Plan, proposal: SignedProposal, creator: Identity, snapshot: Snapshot, first: EndorserAnswer | None
    ) -> list[EndorserAnswer]:
        endorsed = {first.organisation: first} if first else {}
        failed: set[str] = set()
        details: list[ErrorDetail] = []
        while (chosen := plan.choose(failed)) is not None:
            missing = [self._endorsers[name] for name in chosen if name not in endorsed]
            expected = next(iter(endorsed.values())).payload if endorsed else None
            answers, found = await self._collect(proposal, creator, snapshot, missing, expected)
            endorsed |= {answer.organisation: answer for answer in answers}
            if not found:
                return [endorsed[name] for name in chosen]
            details += found
            failed |= {detail.msp_id for detail in found}
        raise RpcError(_Code.ABORTED, _NOT_ENOUGH, details)

    async def _collect(
        self,
        proposal: SignedProposal,
        creator: Identity,
        snapshot: Snapshot,
        endorsers: Sequence[EndorsingPeer],
        expected: bytes | None,
    ) -> tuple[list[EndorserAnswer], list[ErrorDetail]]:
        """Asks several organisations at once; all must arrive at the same bytes."""
        outcomes = await asyncio.gather(
            *(endorser.endorse(proposal, creator, snapshot) for endorser in endorsers), return_exceptions=True
        )
        answers: list[EndorserAnswer] = []
        details: list[ErrorDetail] = []
        for endorser, outcome in zip(endorsers, outcomes, strict=True):
            if isinstance(outcome, EndorserFailure):
                details.append(self._detail(endorser, str(outcome)))
            elif isinstance(outcome, BaseException):
                raise outcome
            elif not outcome.succeeded:
                details.append(self._detail(endorser, _contract_error(outcome)))
            elif expected is not None and outcome.payload != expected:
                details.append(self._detail(endorser, _MISMATCH))
            else:
                expected = outcome.payload
                answers.append(outcome)
        return answers, details

    def _ready_endorsers(self, chaincode: str, snapshot: Snapshot) -> list[EndorsingPeer]:
        """Endorsers that can run a chaincode: the own organisation first, those known to be down last."""
        others = [endorser for endorser in self._endorsers.values() if endorser is not self._own]
        random.shuffle(others)
        ready = [e for e in (self._own, *others) if _is_peer(e, snapshot) and e.is_ready_for(chaincode, snapshot)]
        if chaincode != LIFECYCLE:
            ready.sort(key=lambda e: not e.is_reachable_for(chaincode, snapshot))
        return ready

    @asynccontextmanager
    async def _turn(self, creator: Identity) -> AsyncIterator[None]:
        try:
            async with self._turns.take(creator.msp_id):
                yield
        except Crowded as error:
            raise RpcError(_Code.RESOURCE_EXHAUSTED, str(error)) from error

    def _admit(self, proposal: SignedProposal, code: grpc.StatusCode, message: str) -> Identity:
        if not proposal.channel:
            raise RpcError(_Code.INVALID_ARGUMENT, "failed to unpack transaction proposal: no channel id provided")
        try:
            return self._admission.admit_proposal(proposal, self._own.organisation)
        except UnknownChannel as error:
            text = (
                "no combination of peers can be derived which satisfy the endorsement policy: No metadata was found "
                f"for chaincode {proposal.chaincode} in channel {proposal.channel}"
            )
            raise RpcError(_Code.FAILED_PRECONDITION, text) from error
        except (Refused, BlockError) as error:
            text = f"error validating proposal: {error}"
            raise RpcError(code, message.format(text), [self._detail(self._own, text)]) from error

    def _admit_evaluation(self, proposal: SignedProposal) -> Identity:
        """Admits with the codes of a peer's gateway, which takes what a peer's filters refuse for its absence."""
        try:
            return self._admit(proposal, _Code.FAILED_PRECONDITION, "evaluate call to endorser returned error: {}")
        except RpcError as error:
            if isinstance(error.__cause__, UnknownChannel):
                name = proposal.channel
                text = f"failed to get config for channel [{name}]: could not get last config for channel {name}"
                raise RpcError(_Code.UNAVAILABLE, text) from error
            if isinstance(error.__cause__, Unauthorized):
                raise RpcError(_Code.UNAVAILABLE, str(error), error.details) from error
            raise

    def _detail(self, endorser: EndorsingPeer, message: str) -> ErrorDetail:
        msp_id = endorser.organisation
        return ErrorDetail(address=self._addresses[msp_id], msp_id=msp_id, message=message)

    # --- submit and status

    async def _submit(self, request: bytes) -> bytes:
        message = parse(gateway_pb2.SubmitRequest, request, "a SubmitRequest")
        if not message.HasField("prepared_transaction"):
            raise RpcError(_Code.INVALID_ARGUMENT, "a prepared transaction is required")
        envelope = message.prepared_transaction
        if not envelope.signature:
            raise RpcError(_Code.INVALID_ARGUMENT, "prepared transaction must be signed")
        canonical = common_pb2.Envelope(payload=envelope.payload, signature=envelope.signature)
        encoded = canonical.SerializeToString(deterministic=True)
        try:
            self._admission.admit_transaction(encoded)
            await self._ledger.order(encoded)
        except UnknownChannel as error:
            raise RpcError(_Code.FAILED_PRECONDITION, str(error)) from error
        except (Refused, BlockError) as error:
            status = "FORBIDDEN" if isinstance(error, AccessDenied) else "BAD_REQUEST"
            raise RpcError(
                _Code.ABORTED, f"received unsuccessful response from orderer: status={status}, info={error}"
            ) from error
        except NodeError as error:
            detail = ErrorDetail(address=self._addresses[""], msp_id="", message=str(error))
            text = "no orderers could successfully process transaction"
            raise RpcError(_Code.UNAVAILABLE, text, [detail]) from error
        return b""

    async def _commit_status(self, request: bytes) -> bytes:
        signed = parse(gateway_pb2.SignedCommitStatusRequest, request, "a SignedCommitStatusRequest")
        if not signed.request:
            raise RpcError(_Code.INVALID_ARGUMENT, "a commit status request is required")
        message = parse(gateway_pb2.CommitStatusRequest, signed.request, "a CommitStatusRequest")
        for value, what in (
            (message.identity, "no identity provided"),
            (message.channel_id, "no channel ID provided"),
            (message.transaction_id, "transaction ID should not be empty"),
        ):
            if not value:
                raise RpcError(_Code.INVALID_ARGUMENT, what)
        self._admit_signed(message, signed, "gateway/CommitStatus")
        try:
            found = await self._ledger.wait_for_transaction(message.transaction_id)
        except NodeError as error:
            raise RpcError(_Code.UNAVAILABLE, str(error)) from error
        answer = gateway_pb2.CommitStatusResponse(result=found.code, block_number=found.block_number)
        return bytes(answer.SerializeToString())

    def _admit_signed(self, message: Any, signed: Any, resource: str) -> None:
        try:
            self._admission.admit_signed(
                identity=message.identity,
                signature=signed.signature,
                data=signed.request,
                channel=message.channel_id,
                resource=resource,
            )
        except FabricError as error:
            raise RpcError(_Code.PERMISSION_DENIED, str(error)) from error

    # --- events

    async def _chaincode_events(self, request: bytes) -> AsyncIterator[bytes]:
        signed = parse(gateway_pb2.SignedChaincodeEventsRequest, request, "a SignedChaincodeEventsRequest")
        if not signed.request:
            raise RpcError(_Code.INVALID_ARGUMENT, "a chaincode events request is required")
        message = parse(gateway_pb2.ChaincodeEventsRequest, signed.request, "a ChaincodeEventsRequest")
        self._admit_signed(message, signed, "gateway/ChaincodeEvents")
        after = message.after_transaction_id
        number = self._start_block(message)
        passed = not after
        while True:
            try:
                events = await self._blocks.events(number)
            except NodeError as error:
                raise RpcError(_Code.UNAVAILABLE, str(error)) from error
            matching = []
            for event in events:
                if passed and event.chaincode_id == message.chaincode_id:
                    matching.append(event)
                passed = passed or event.tx_id == after
            if matching:
                answer = gateway_pb2.ChaincodeEventsResponse(events=matching, block_number=number)
                yield answer.SerializeToString()
            number += 1

    def _start_block(self, message: Any) -> int:
        if message.after_transaction_id:
            found = self._ledger.transaction(message.after_transaction_id)
            if found is not None:
                return found.block_number
        kind = message.start_position.WhichOneof("Type")
        if kind == "specified":
            return int(message.start_position.specified.number)
        if kind not in (None, "next_commit"):
            raise RpcError(_Code.INVALID_ARGUMENT, f"invalid start position type: {kind}")
        return self._ledger.height


def _is_peer(endorser: EndorsingPeer, snapshot: Snapshot) -> bool:
    """Whether the channel still accepts an endorser: its organisation is there, its certificate not revoked."""
    try:
        snapshot.config.msps.validate(endorser.signer.identity)
    except IdentityError:
        return False
    return endorser.organisation in snapshot.config.application_msp_ids


def _read_proposal(request: bytes) -> tuple[SignedProposal, list[str]]:
    """Reads an EndorseRequest or EvaluateRequest: they have the same fields."""
    signed: memoryview | None = None
    organisations: list[str] = []
    try:
        for number, content in scan_fields(memoryview(request)):
            if number == 3 and isinstance(content, memoryview):
                signed = content
            elif number == 4 and isinstance(content, memoryview):
                organisations.append(str(content, "utf-8"))
        if signed is None:
            raise BlockError("a signed proposal is required")
        return SignedProposal.parse(signed), organisations
    except (ValueError, BlockError) as error:
        raise RpcError(_Code.INVALID_ARGUMENT, f"failed to unpack transaction proposal: {error}") from error


def _contract_error(answer: EndorserAnswer) -> str:
    return f"chaincode response {answer.response.status}, {answer.response.message}"


def _encode_evaluated(answer: EndorserAnswer) -> bytes:
    return encode_bytes(1, answer.response.SerializeToString())
