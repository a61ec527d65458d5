"""Endorses proposals for one organisation: simulates on a snapshot, keeps private writes, signs the result.

Owns the way from an admitted proposal to an endorsement, for contracts and for the lifecycle. Refuses chaincodes
that are not defined, not approved by this organisation or not installed here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from fabric_protos.peer import (
    chaincode_event_pb2,
    chaincode_pb2,
    proposal_pb2,
    proposal_response_pb2,
)

from blockfl.fabric.counters import Counters
from blockfl.fabric.embedded.endorsing.admission import Admission, Refused
from blockfl.fabric.embedded.endorsing.approvals import Approvals, ChaincodeView
from blockfl.fabric.embedded.endorsing.contract_host import ContractHost
from blockfl.fabric.embedded.endorsing.contract_stream import encode_transaction
from blockfl.fabric.embedded.endorsing.installation import Installation
from blockfl.fabric.embedded.endorsing.lifecycle_contract import LifecycleContract, LifecycleRefusal
from blockfl.fabric.embedded.endorsing.operations import Operations
from blockfl.fabric.embedded.endorsing.proposal import SignedProposal
from blockfl.fabric.embedded.endorsing.simulator import Interest, SimulationError, Simulator
from blockfl.fabric.embedded.endorsing.system_contracts import SYSTEM_CONTRACTS, SystemContracts
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger, Snapshot
from blockfl.fabric.embedded.storage.definition import LIFECYCLE, StoredDefinition
from blockfl.fabric.errors import FabricError, NodeError, ShimError
from blockfl.fabric.identity.signing import Identity, Signer

_LOG = logging.getLogger(__name__)

_OK, _ERROR_THRESHOLD, _ERROR = 200, 400, 500
_INITIALISED = "\x00\U0010ffffinitialized"
_SYSTEM_VERSION = "syscc"


class EndorserFailure(FabricError):
    """The peer itself could not endorse; the contract has said nothing."""


@dataclass(frozen=True, kw_only=True)
class EndorserAnswer:
    """What one organisation's peer answers to a proposal.

    Attributes:
        organisation: Its MSP id.
        response: protos.Response of the contract.
        payload: Serialised ProposalResponsePayload: what endorsers sign; empty for calls without a channel.
        endorsement: Serialised protos.Endorsement; empty unless the contract succeeded.
        interest: Which policies the transaction has to satisfy.
    """

    organisation: str
    response: Any
    payload: bytes = b""
    endorsement: bytes = b""
    interest: Interest = field(default_factory=Interest)

    @property
    def succeeded(self) -> bool:
        """Whether the contract accepted the call."""
        return bool(_OK <= self.response.status < _ERROR_THRESHOLD)

    def encode(self) -> Any:
        """Returns the protos.ProposalResponse."""
        message = proposal_response_pb2.ProposalResponse(payload=self.payload)
        message.response.CopyFrom(self.response)
        if self.endorsement:
            message.version = 1
            message.endorsement.MergeFromString(self.endorsement)
        return message


@dataclass(frozen=True, kw_only=True)
class _Simulated:
    response: Any
    event: Any
    version: str


class EndorsingPeer:
    """The endorsing half of one organisation's peer.

    Args:
        signer: The peer's identity.
        ledger: The channel's ledger.
        admission: Knows who is a member of what.
        host: The organisation's contract services.
        installation: The organisation's installed packages.
        counters: Counts the proposals.
    """

    def __init__(
        self,
        *,
        signer: Signer,
        ledger: ChannelLedger,
        admission: Admission,
        host: ContractHost,
        installation: Installation,
        counters: Counters | None = None,
    ) -> None:
        self.organisation = signer.identity.msp_id
        self.signer = signer
        self.host = host
        self._ledger = ledger
        self._admission = admission
        self._counters = counters or Counters()
        self._lifecycle = LifecycleContract(
            self.organisation, installation, lambda: ledger.config, self._list_committed
        )
        self._system = SystemContracts(ledger)
        self._approvals = Approvals(self.organisation, ledger)

    def is_ready_for(self, chaincode: str, snapshot: Snapshot) -> bool:
        """Tells whether this peer can run a chaincode: defined, approved, installed."""
        if chaincode in SYSTEM_CONTRACTS or chaincode == LIFECYCLE:
            return True
        found = self._approvals.find(chaincode, snapshot)
        return found is not None and found.approved and self.host.has(found.package_id)

    def is_reachable_for(self, chaincode: str, snapshot: Snapshot) -> bool:
        """Tells whether the contract service of a chaincode is not known to be down."""
        found = self._approvals.find(chaincode, snapshot)
        return found is None or self.host.is_reachable(found.package_id)

    async def endorse(
        self, proposal: SignedProposal, creator: Identity, snapshot: Snapshot | None, *, evaluate: bool = False
    ) -> EndorserAnswer:
        """Simulates an admitted proposal and signs the result.

        Args:
            proposal: What to simulate.
            creator: Who proposed it; authenticated.
            snapshot: State to simulate on; None for calls without a channel.
            evaluate: Only the response counts: nothing is signed or kept.

        Raises:
            EndorserFailure: The peer cannot run the call.
        """
        if snapshot is None:
            return EndorserAnswer(organisation=self.organisation, response=self._run_without_channel(proposal, creator))
        self._counters.add("evaluations" if evaluate else "endorsements")
        simulator = self._simulator(proposal, creator, snapshot)
        try:
            simulated = await self._simulate(proposal, creator, snapshot, simulator)
            if evaluate:
                return EndorserAnswer(organisation=self.organisation, response=simulated.response)
            return await self._sign(proposal, simulated, simulator)
        except ShimError as error:
            text = f"error in simulation: failed to execute transaction {proposal.tx_id}: {error}"
            raise EndorserFailure(text) from error
        except (SimulationError, NodeError, Refused) as error:
            raise EndorserFailure(f"error in simulation: {error}") from error

    def _simulator(self, proposal: SignedProposal, creator: Identity, snapshot: Snapshot) -> Simulator:
        return Simulator(
            snapshot,
            organisation=self.organisation,
            channel=snapshot.config.channel_id,
            organisations=snapshot.config.application_msp_ids,
            is_member=lambda policy: self._admission.is_member(creator, policy),
            digest=proposal.shared.digest,
        )

    # --- system chaincodes

    def _run_without_channel(self, proposal: SignedProposal, creator: Identity) -> Any:
        if proposal.chaincode == LIFECYCLE:
            return self._run_lifecycle(proposal, creator, None)
        if proposal.chaincode in SYSTEM_CONTRACTS:
            try:
                self._admission.check_admin_or_member(creator, self.organisation, proposal.chaincode, proposal.function)
                return self._system.invoke(proposal.chaincode, proposal.args)
            except (SimulationError, Refused) as error:
                return proposal_response_pb2.Response(status=_ERROR, message=str(error))
        raise EndorserFailure(
            f"expected a channel for the chaincode {proposal.chaincode}, got none: only system chaincodes run without"
        )

    def _run_lifecycle(self, proposal: SignedProposal, creator: Identity, simulator: Simulator | None) -> Any:
        resource = f"{LIFECYCLE}/{proposal.function}"
        try:
            if LifecycleContract.needs_admin(proposal.function):
                self._admission.check_admin(creator, self.organisation, resource)
            elif simulator is not None:
                self._admission.check_access(creator, resource)
            payload = self._lifecycle.invoke(proposal.args, simulator)
            return proposal_response_pb2.Response(status=_OK, payload=payload)
        except LifecycleRefusal as refusal:
            return proposal_response_pb2.Response(status=refusal.status, message=str(refusal))
        except FabricError as error:
            text = f"Failed to authorize invocation due to failed ACL check: {error}"
            return proposal_response_pb2.Response(status=_ERROR, message=text)

    def _list_committed(self) -> list[tuple[str, str, str]]:
        with self._ledger.snapshot(self.organisation) as snapshot:
            return [(a.definition.name, a.definition.version, a.package_id) for a in self._approvals.all(snapshot)]

    # --- contracts

    async def _simulate(
        self, proposal: SignedProposal, creator: Identity, snapshot: Snapshot, simulator: Simulator
    ) -> _Simulated:
        name = proposal.chaincode
        if name == LIFECYCLE:
            response = self._run_lifecycle(proposal, creator, simulator)
            return _Simulated(response=response, event=None, version=_SYSTEM_VERSION)
        if name in SYSTEM_CONTRACTS:
            self._admission.check_access(creator, f"{name}/{proposal.function}")
            response = self._system.invoke(name, proposal.args)
            return _Simulated(response=response, event=None, version=_SYSTEM_VERSION)
        self._admission.check_access(creator, "peer/Propose")
        approval = self._check_runnable(name, snapshot, simulator)
        self._check_initialised(approval.definition, proposal.is_init, simulator)
        message = _encode_call(proposal, proposal.contract_input, is_init=proposal.is_init)

        async def invoke(target: str, contract_input: Any) -> bytes:
            return await self._invoke_other(proposal, target, contract_input, snapshot, simulator)

        answer = await self.host.execute(
            approval.package_id,
            message,
            channel=proposal.channel,
            tx_id=proposal.tx_id,
            operations=Operations(simulator, name, invoke, is_init=proposal.is_init),
        )
        return _Simulated(response=answer.response, event=answer.event, version=approval.definition.version)

    async def _invoke_other(
        self, proposal: SignedProposal, target: str, contract_input: Any, snapshot: Snapshot, simulator: Simulator
    ) -> bytes:
        if target == LIFECYCLE or target in SYSTEM_CONTRACTS:
            raise SimulationError(f"the embedded node does not let contracts call the system chaincode {target}")
        approval = self._check_runnable(target, snapshot, simulator)
        self._check_initialised(approval.definition, contract_input.is_init, simulator)
        encoded = contract_input.SerializeToString(deterministic=True)
        message = _encode_call(proposal, encoded, is_init=contract_input.is_init)

        async def invoke(name: str, nested: Any) -> bytes:
            return await self._invoke_other(proposal, name, nested, snapshot, simulator)

        answer = await self.host.execute(
            approval.package_id,
            message,
            channel=proposal.channel,
            tx_id=proposal.tx_id,
            operations=Operations(simulator, target, invoke, is_init=contract_input.is_init),
        )
        return answer.message

    def _check_runnable(self, name: str, snapshot: Snapshot, simulator: Simulator) -> ChaincodeView:
        simulator.sequence(name)  # recorded: an upgrade invalidates this transaction
        channel = snapshot.config.channel_id
        found = self._approvals.find(name, snapshot)
        if found is None:
            raise SimulationError(
                f"make sure the chaincode {name} has been successfully defined on channel {channel} and try again: "
                f"chaincode {name} not found"
            )
        if not found.approved:
            raise SimulationError(
                f"chaincode definition for '{name}' at sequence {found.definition.sequence} on channel '{channel}' "
                f"has not yet been approved by this org ({self.organisation})"
            )
        if not self.host.has(found.package_id):
            raise SimulationError(
                f"chaincode definition for '{name}' exists, but chaincode is not installed at {self.organisation}: "
                f"install {found.package_id or 'its package and approve again with the package id'}"
            )
        return found

    def _check_initialised(self, definition: StoredDefinition, is_init: bool, simulator: Simulator) -> None:
        name, version = definition.name, definition.version
        if not definition.init_required:
            if is_init:
                raise SimulationError(f"chaincode '{name}' does not require initialization but called as init")
            return
        done = simulator.get_state(name, _INITIALISED) == version.encode()
        if is_init and done:
            raise SimulationError(f"chaincode '{name}' is already initialized but called as init")
        if is_init:
            simulator.put_state(name, _INITIALISED, version.encode())
        elif not done:
            raise SimulationError(
                f"chaincode '{name}' has not been initialized for this version, must call as init first"
            )

    # --- signing

    async def _sign(self, proposal: SignedProposal, simulated: _Simulated, simulator: Simulator) -> EndorserAnswer:
        result = simulator.result()
        response = simulated.response
        if _ERROR_THRESHOLD <= response.status < _ERROR:
            return EndorserAnswer(organisation=self.organisation, response=response)
        action = proposal_pb2.ChaincodeAction(
            results=result.public,
            events=_encode_event(proposal, simulated.event) if response.status < _ERROR_THRESHOLD else b"",
            response=response,
            chaincode_id=chaincode_pb2.ChaincodeID(name=proposal.chaincode, version=simulated.version),
        )
        payload = proposal_response_pb2.ProposalResponsePayload(
            proposal_hash=proposal.proposal_hash, extension=action.SerializeToString(deterministic=True)
        ).SerializeToString(deterministic=True)
        if response.status >= _ERROR:
            return EndorserAnswer(organisation=self.organisation, response=response, payload=payload)
        if result.private:
            sets = [proposal.shared.private_set(*place, rwset) for place, rwset in result.private.items()]
            await self._ledger.stage_private(self.organisation, proposal.tx_id, sets)
        identity = self.signer.identity
        signature = self.signer.sign(payload + identity.serialized)
        self._ledger.signatures.remember(identity, signature, payload + identity.serialized)
        endorsement = proposal_response_pb2.Endorsement(endorser=identity.serialized, signature=signature)
        return EndorserAnswer(
            organisation=self.organisation,
            response=response,
            payload=payload,
            endorsement=endorsement.SerializeToString(),
            interest=simulator.interest,
        )


def _encode_event(proposal: SignedProposal, event: Any) -> bytes:
    if event is None:
        return b""
    message = chaincode_event_pb2.ChaincodeEvent(
        chaincode_id=proposal.chaincode, tx_id=proposal.tx_id, event_name=event.event_name, payload=event.payload
    )
    return bytes(message.SerializeToString())


def _encode_call(proposal: SignedProposal, contract_input: bytes, *, is_init: bool) -> bytes:
    return proposal.shared.message(
        contract_input,
        is_init,
        lambda: encode_transaction(
            channel=proposal.channel,
            tx_id=proposal.tx_id,
            contract_input=contract_input,
            signed_proposal=proposal.encoded,
            is_init=is_init,
        ),
    )
