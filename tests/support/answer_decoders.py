"""Decoders of what peers, ordering nodes and gateways answer to their clients.

The client is real; instead of a connection it has one that answers everything with the bytes under test.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import cache, partial
from typing import Any

from fabric_protos.common import common_pb2, ledger_pb2
from fabric_protos.gateway import gateway_pb2
from fabric_protos.msp import msp_config_pb2, msp_principal_pb2
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer import chaincode_event_pb2, events_pb2, proposal_response_pb2, query_pb2
from fabric_protos.peer.lifecycle import lifecycle_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.changes import add_organisation, revoke_certificates
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.difference import describe_difference, list_revoked, read_membership
from blockfl.fabric.channel.spec import OrganisationSpec, check_organisations
from blockfl.fabric.channel.update import compute_update, preview_update
from blockfl.fabric.client.broadcast import _read_answer
from blockfl.fabric.client.deliver import _decode_answer
from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.events import decode_events
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import Lifecycle
from blockfl.fabric.client.peer import Peer
from blockfl.fabric.client.status import decode_details
from blockfl.fabric.encoding.wire import encode_bytes, encode_integer
from blockfl.fabric.errors import (
    CommitStatusError,
    ConfigError,
    EndorseError,
    ErrorDetail,
    EvaluateError,
    GatewayError,
    NodeError,
)
from blockfl.fabric.identity.policy import role_principal
from blockfl.fabric.identity.signing import Identity, Signer
from blockfl.fabric.transaction.chaincode_definition import DEFAULT_POLICY, ChaincodeDefinition, _application_policy
from blockfl.fabric.transaction.envelope import (
    Proposal,
    assemble_payload,
    build_proposal,
    encode_response_payload,
    endorse,
)
from support.channel import make_channel
from support.decoders import Decoder, of
from support.fabric_decoders import make_channel_config, msps, policies, small_blocks, updates
from support.organisation import Organisation, make_organisation

DEFINITION = ChaincodeDefinition(name="app", version="1.0")


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing, without the price of an event loop."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("it waited")


class Told:
    """A connection, or a peer asked over one, that answers everything with the same bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def unary_unary(self, method: str) -> Callable[..., Coroutine[Any, Any, bytes]]:
        """A call of a service."""
        return self.query

    async def query(self, *_: Any, **__: Any) -> bytes:
        """The answer."""
        return self._content


class ToldGateway(Gateway):
    """A client that asks nobody, about one proposal that was made before."""

    def __init__(self, content: bytes) -> None:
        super().__init__(endpoint(), client(), "fed", connection=Told(content))  # type: ignore[arg-type]

    def propose(self, chaincode: str, function: str, *args: str | bytes, transient: Any = None) -> Proposal:
        """The proposal that was made before."""
        return proposal()


@cache
def organisation() -> Organisation:
    return make_organisation("alpha")


@cache
def client() -> Signer:
    return organisation().signer("client")


@cache
def endpoint() -> Endpoint:
    return Endpoint(address="127.0.0.1:7051", tls_roots_pem=organisation().tls.certificate_pem)


@cache
def proposal() -> Proposal:
    return build_proposal("fed", "app", [b"Put", b"k", b"v"], client())


# --- blocks and acknowledgements


def delivered(content: bytes) -> None:
    block = _decode_answer(content)
    assert block is None or block.header.number >= 0


def deliveries() -> Sequence[bytes]:
    blocks = [encode_bytes(2, one) for one in small_blocks() if len(one) < 6000]
    statuses = [encode_integer(1, one) for one in (common_pb2.SUCCESS, common_pb2.FORBIDDEN)]
    assert events_pb2.DeliverResponse.FromString(blocks[0]).WhichOneof("Type") == "block"
    return *blocks[:4], *statuses


def acknowledged(content: bytes) -> None:
    found = _read_answer(endpoint(), content)
    if found is not None:
        assert found.address == endpoint().address
        assert found.message
    else:
        assert ab_pb2.BroadcastResponse.FromString(content).status == common_pb2.SUCCESS


def acknowledgements() -> Sequence[bytes]:
    said = ((common_pb2.SUCCESS, ""), (common_pb2.BAD_REQUEST, "no"), (999, "unheard of"))
    return tuple(bytes(ab_pb2.BroadcastResponse(status=one, info=info).SerializeToString()) for one, info in said)


# --- a peer asked directly


def endorsed(content: bytes) -> None:
    endorser = Endorser(endpoint(), client())
    endorser._channel = Told(content)  # type: ignore[assignment]
    assert 200 <= drive(endorser.process(proposal())).response.status < 400


def endorsements() -> Sequence[bytes]:
    answers = [
        proposal_response_pb2.ProposalResponse(response=proposal_response_pb2.Response(status=200, payload=b"p"))
    ]
    answers.append(proposal_response_pb2.ProposalResponse(response={"status": 500, "message": "no"}))
    answers[0].endorsement.signature = b"s"
    return tuple(bytes(one.SerializeToString()) for one in answers)


def asked_peer(content: bytes) -> None:
    peer: Any = Peer(endpoint(), client())
    peer._endorser = Told(content)
    require_one([partial(drive, peer.channels()), partial(drive, peer.height("fed"))], NodeError)


def require_one(questions: Sequence[Callable[[], object]], refusal: type[Exception]) -> None:
    """Ask everything; refuse when every question is."""
    refused: list[Exception] = []
    for question in questions:
        try:
            question()
        except refusal as error:
            refused.append(error)
    if len(refused) == len(questions):
        raise refused[0]


def answers_of_peers() -> Sequence[bytes]:
    channels = query_pb2.ChannelQueryResponse(channels=[query_pb2.ChannelInfo(channel_id="fed")])
    info = ledger_pb2.BlockchainInfo(height=7, currentBlockHash=b"h" * 32)
    return bytes(channels.SerializeToString()), bytes(info.SerializeToString())


def asked_lifecycle(content: bytes) -> None:
    """Each question answered with it: what parses is a whole answer."""
    lifecycle: Any = Lifecycle(ToldGateway(b""))
    lifecycle._peer = Told(content)
    questions = (
        lifecycle.installed(),
        lifecycle.readiness(DEFINITION),
        lifecycle.query("app"),
        lifecycle.is_in_force(DEFINITION),
        lifecycle.has_lost(DEFINITION),
    )
    require_one([partial(drive, question) for question in questions], ConfigError)


def answers_of_lifecycle() -> Sequence[bytes]:
    said = DEFINITION.encode()
    package = lifecycle_pb2.QueryInstalledChaincodesResult.InstalledChaincode(package_id="app:00", label="app")
    messages = (
        lifecycle_pb2.QueryInstalledChaincodesResult(installed_chaincodes=[package]),
        lifecycle_pb2.CheckCommitReadinessResult(approvals={"alpha": True, "beta": False}),
        lifecycle_pb2.QueryChaincodeDefinitionResult(approvals={"alpha": True}, **said),
        lifecycle_pb2.QueryApprovedChaincodeDefinitionResult(**said),
    )
    return tuple(bytes(one.SerializeToString(deterministic=True)) for one in messages)


# --- a gateway


def evaluated(content: bytes) -> None:
    assert isinstance(drive(ToldGateway(content).evaluate("app", "Get", retries=0)), bytes)


def evaluations() -> Sequence[bytes]:
    response = proposal_response_pb2.Response(status=200, payload=b"payload")
    return (bytes(gateway_pb2.EvaluateResponse(result=response).SerializeToString()),)


def prepared(content: bytes) -> None:
    """Whatever a gateway hands out to be signed: only what was proposed is."""
    found = drive(ToldGateway(content).endorse(proposal(), retries=0))
    assert found.transaction_id == proposal().tx_id


def preparations() -> Sequence[bytes]:
    response = encode_response_payload(proposal(), results=b"", version="1.0")
    payload = assemble_payload(proposal(), response, [endorse(response, organisation().signer("peer", "peer"))])
    envelope = common_pb2.Envelope(payload=payload)
    return (bytes(gateway_pb2.EndorseResponse(prepared_transaction=envelope).SerializeToString()),)


def outcome(content: bytes) -> None:
    found = drive(ToldGateway(content).commit_status("ab"))
    assert found.is_valid == (found.code_name == "VALID")
    assert found.block_number >= 0


def outcomes() -> Sequence[bytes]:
    return tuple(
        bytes(gateway_pb2.CommitStatusResponse(result=code, block_number=7).SerializeToString()) for code in (0, 11, 99)
    )


def height_of_a_peer(content: bytes) -> None:
    assert drive(ToldGateway(encode_bytes(1, encode_bytes(3, content))).peer_height("beta")) >= 0


class Trailer:
    """A failed call with this in its trailer."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """What followed the answer."""
        return (("grpc-status-details-bin", self._content),)


def error_details(content: bytes) -> None:
    """What does not parse is as good as none: the failure itself is what counts."""
    failed: Any = Trailer(content)
    assert all(isinstance(one, ErrorDetail) for one in decode_details(failed))


def statuses() -> Sequence[bytes]:
    detail = gateway_pb2.ErrorDetail(address="peer:7051", msp_id="alpha", message="refused").SerializeToString()
    any_message = encode_bytes(1, b"type.googleapis.com/gateway.ErrorDetail") + encode_bytes(2, detail)
    return (encode_integer(1, 10) + encode_bytes(2, b"text") + encode_bytes(3, any_message),)


def events(content: bytes) -> None:
    assert len({one.block_number for one in decode_events(content)}) <= 1


def event_responses() -> Sequence[bytes]:
    event = chaincode_event_pb2.ChaincodeEvent(chaincode_id="app", tx_id="a", event_name="E", payload=b"p")
    return (bytes(gateway_pb2.ChaincodeEventsResponse(events=[event], block_number=7).SerializeToString()),)


# --- policies, principals, organisations


def policy_of_a_definition(content: bytes) -> None:
    found = _application_policy(content)
    assert found.signature_policy.identities
    assert DEFAULT_POLICY not in str(found)


def satisfied(content: bytes) -> None:
    """Nobody of another organisation satisfies what names this one."""
    try:
        principal = msp_principal_pb2.MSPPrincipal.FromString(content)
    except DecodeError as error:
        raise ConfigError("no principal") from error
    assert isinstance(channel_msps()["alpha"].satisfies(make_channel().client.identity, principal), bool)
    assert not channel_msps()["alpha"].satisfies(stranger(), principal) or is_open_to_all(principal)


def is_open_to_all(principal: Any) -> bool:
    kinds = msp_principal_pb2.MSPPrincipal
    return principal.principal_classification in (kinds.ANONYMITY, kinds.COMBINED)


@cache
def stranger() -> Identity:
    return make_organisation("zeta").signer("client").identity


@cache
def channel_msps() -> Any:
    return make_channel_config().msps


@cache
def principals() -> Sequence[bytes]:
    kinds = msp_principal_pb2.MSPPrincipal
    client = make_channel().client.identity
    unit = msp_principal_pb2.OrganizationUnit(msp_identifier="alpha", organizational_unit_identifier="client")
    nominal = msp_principal_pb2.MSPIdentityAnonymity()
    found = [role_principal("alpha", role) for role in ("member", "client", "admin", "peer", "orderer")]
    found += [
        kinds(principal_classification=kinds.IDENTITY, principal=client.serialized),
        kinds(principal_classification=kinds.ORGANIZATION_UNIT, principal=unit.SerializeToString()),
        kinds(principal_classification=kinds.ANONYMITY, principal=nominal.SerializeToString()),
    ]
    both = msp_principal_pb2.CombinedPrincipal(principals=found[:2]).SerializeToString()
    found.append(kinds(principal_classification=kinds.COMBINED, principal=both))
    return tuple(bytes(one.SerializeToString()) for one in found)


def organisation_to_join(content: bytes) -> None:
    try:
        membership = msp_config_pb2.MSPConfig.FromString(content)
    except DecodeError as error:
        raise ConfigError("no membership") from error
    spec = OrganisationSpec(name="alpha", msp_config=membership)
    check_organisations("application", [spec])
    assert spec.msp_id


def described_update(content: bytes) -> None:
    """What an administrator is shown of an update before signing."""
    config = make_channel_config()
    after = preview_update(config, content)
    lines = describe_difference(config, after)
    assert lines or config.config.channel_group == after.config.channel_group


@cache
def described_updates() -> Sequence[bytes]:
    """A batch changes; an organisation joins."""
    now = make_channel_config()
    joining = add_organisation(now, make_organisation("epsilon").spec(anchor=7999))
    return *updates(), compute_update(now.config, joining, now.channel_id)


def revocation_list(content: bytes) -> None:
    config = make_channel_config()
    changed = ChannelConfig.from_config(revoke_certificates(config, "alpha", content), config.channel_id)
    assert list_revoked(read_membership(changed, "alpha"))


def revocation_lists() -> Sequence[bytes]:
    alpha = make_channel().organisations["alpha"]
    return (alpha.signing.revoke([alpha.signer("thief").identity.certificate_pem]),)


DECODERS: tuple[Decoder, ...] = (
    of("deliver: block", delivered, (GatewayError,), deliveries, max_bytes=8192),
    of("broadcast: acknowledgement", acknowledged, (), acknowledgements, max_bytes=256),
    of("endorser: endorsement", endorsed, (EndorseError,), endorsements, max_bytes=1024),
    of("peer: channels and height", asked_peer, (NodeError,), answers_of_peers, max_bytes=512),
    of("lifecycle: answers", asked_lifecycle, (ConfigError,), answers_of_lifecycle, max_bytes=1024),
    of("gateway: result", evaluated, (EvaluateError,), evaluations, max_bytes=1024),
    of("gateway: prepared transaction", prepared, (EndorseError,), preparations, max_bytes=8192),
    of("gateway: outcome", outcome, (CommitStatusError,), outcomes, max_bytes=256),
    of("gateway: height of a peer", height_of_a_peer, (EvaluateError,), answers_of_peers, max_bytes=512),
    of("gateway: error details", error_details, (), statuses),
    of("gateway: events", events, (GatewayError,), event_responses),
    of("endorsement policy of a definition", policy_of_a_definition, (ConfigError,), policies, max_bytes=2048),
    of("principal", satisfied, (ConfigError,), principals, max_bytes=3000),
    of("configuration update described", described_update, (ConfigError,), described_updates),
    of("revocation list", revocation_list, (ConfigError,), revocation_lists, form="text", max_bytes=1024),
    of("organisation that joins", organisation_to_join, (ConfigError,), msps, max_bytes=8192),
)
