"""Who may do what: roles, certificates that are not one's own, readers that may not read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from fabric_protos.peer import chaincode_shim_pb2

from attacks.bout import Bout
from attacks.catalogue import Outcome, attack, invalid, refused, succeeded, without_effect
from attacks.observation import attempt, attempt_all, name_refusal
from blockfl.fabric.channel.changes import remove_organisation
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.client.broadcast import broadcast
from blockfl.fabric.client.deliver import read_config
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.identity.signing import Identity, Signer, create_private_key, private_key_pem
from blockfl.fabric.transaction.envelope import build_proposal
from blockfl.protocol import catalogue
from blockfl.protocol.codes import Code
from blockfl.protocol.submission import compute_certificate_digest
from support.consortium import CHANNEL
from support.organisation import make_organisation

REGISTER = "/protos.Chaincode/Connect"


@dataclass(frozen=True)
class Impostor(Signer):
    """An identity together with a key that is not its own."""

    def __post_init__(self) -> None:
        """Nothing is checked."""


async def submit_as(bout: Bout, signer: Signer, organisation: str = "") -> None:
    """Submit the attacker's honest header in a transaction of this identity."""
    header = (await bout.seal()).header
    async with bout.arena.client(signer, organisation) as gateway:
        await gateway.submit(bout.network.name, "SubmitUpdate", bout.sign(header).encode())


# Roles


@attack(
    "administrative transactions as an institution",
    by="institution",
    does="Creates a task, grants itself credits, registers a key, opens, judges, closes, attests, publishes, scores.",
    expect=(refused(Code.NOT_COORDINATOR), refused(Code.NOT_COMMITTEE)),
)
async def administrative(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.scenario.submit("delta", bout.number)
    spec = bout.scenario.spec
    calls: list[tuple[str, *tuple[str | bytes, ...]]] = [
        ("CreateTask", spec.model_copy(update={"task": "own-task"}).encode()),
        ("Grant", "gift", "delta", "1000"),
        ("RegisterCommitteeKey", "09" + "00" * 31),
        ("OpenRound", bout.task, str(bout.number + 1)),
        ("JudgeUpdate", *bout.place, "delta"),
        ("CloseRound", *bout.place),
        ("AttestAggregate", *bout.place, spec.initial_model.encode()),
        ("PublishModel", *bout.place, "ab" * 32),
        ("AbandonRound", *bout.place),
        ("ScoreRound", *bout.place),
        ("AppraiseVersion", bout.task, "0"),
    ]
    return await attempt_all(*(bout.network.submit("delta", *call) for call in calls))


@attack(
    "somebody else's header",
    by="institution",
    does="Submits a header that alpha signed, before alpha does.",
    expect=refused(Code.CREATOR_MISMATCH),
)
async def others_header(bout: Bout) -> Outcome:
    await bout.open()
    signed = bout.sign((await bout.seal("alpha")).header)
    return await attempt(bout.network.submit("delta", "SubmitUpdate", signed.encode()))


@attack(
    "header in somebody else's name",
    by="institution",
    does="Signs with its own key a header that says it is alpha's, and submits it as itself.",
    expect=refused(Code.CREATOR_MISMATCH),
)
async def others_name(bout: Bout) -> Outcome:
    await bout.open()
    header = (await bout.seal()).header.model_copy(update={"organisation": "alpha"})
    signed = bout.sign(header.model_copy(update={"organisation": "delta"})).model_copy(update={"header": header})
    return await attempt(bout.network.submit("delta", "SubmitUpdate", signed.encode()))


@attack(
    "tampered metrics",
    by="institution",
    does="Reports for alpha, states a time of its own, reports on a version that is not there, and reports twice.",
    expect=(
        refused(Code.CREATOR_MISMATCH),
        refused(Code.MALFORMED),
        refused(Code.RECORD_UNKNOWN),
        refused(Code.ALREADY_SETTLED),
    ),
)
async def metrics(bout: Bout) -> tuple[Outcome, ...]:
    await bout.finish()
    report = bout.scenario.metrics("delta", bout.number, b"model")
    await bout.network.submit("delta", "ReportMetrics", report.encode())
    lies: list[Mapping[str, Any]] = [
        {"organisation": "alpha"},
        {"reported_at_ms": 1},
        {"version": bout.number + 7},
        {"values": ()},
    ]
    changed = [report.model_copy(update=dict(one)).encode() for one in lies]
    return await attempt_all(*(bout.network.submit("delta", "ReportMetrics", one) for one in changed))


@attack(
    "enrolment of one who was not asked",
    by="committee member",
    does="Enrols an organisation that is no institution of the task.",
    expect=refused(Code.NOT_INSTITUTION),
)
async def not_asked(bout: Bout) -> Outcome:
    return await attempt(bout.network.submit("regulator", "Enrol", bout.task, "100"))


@attack(
    "forged consortium",
    by="coordinator",
    does="Registers a consortium in which one member decides alone, or delta is in the committee; nobody has agreed.",
    expect=(refused(Code.MALFORMED), refused(Code.CONSORTIUM_MISMATCH)),
)
async def forged_consortium(bout: Bout) -> tuple[Outcome, ...]:
    record = bout.arena.consortium.model_copy(update={"sequence": 2})
    roles = {"delta": ("committee",), "regulator": ("institution",)}
    members = tuple(one.model_copy(update={"roles": roles.get(one.organisation, one.roles)}) for one in record.members)
    forged = [record.model_copy(update={"threshold": 1}), record.model_copy(update={"members": members})]
    return await attempt_all(
        *(bout.network.submit("coordinator", "RegisterConsortium", one.encode()) for one in forged)
    )


@attack(
    "other terms under the same name",
    by="coordinator",
    does="Creates the task again with a bound ten times as wide.",
    expect=refused(Code.TASK_EXISTS),
)
async def other_terms(bout: Bout) -> Outcome:
    spec = bout.scenario.spec
    wider = spec.model_copy(update={"bound_l2_micro": 10 * spec.bound_l2_micro})
    return await attempt(bout.network.submit("coordinator", "CreateTask", wider.encode()))


@attack(
    "model chunks as an institution",
    by="institution",
    does="Fills the collection of models with bytes of its own.",
    expect=refused(Code.NOT_COMMITTEE),
)
async def model_chunks(bout: Bout) -> Outcome:
    await bout.open()
    return await attempt(bout.scenario.upload_model("delta", b"whatever"))


# Reading


@attack(
    "reading another's ciphertext",
    by="institution",
    does="Asks the contract for alpha's sealed chunk, at its own peer and the regulator's; then a bent service.",
    expect=(refused(Code.NOT_COMMITTEE), refused("read access")),
)
async def read_ciphertext(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    await bout.contribute("alpha")
    key = catalogue.sealed_chunk_key(bout.task, bout.number, "alpha", 0)
    chunk = (*bout.place, "alpha", "0")
    return await attempt_all(
        bout.network.evaluate("delta", "ReadChunk", *chunk),
        bout.network.evaluate("delta", "ReadChunk", *chunk, peer="regulator"),
        bout.network.evaluate("delta", "Peek", catalogue.SEALED_COLLECTION, key),
        bout.network.evaluate("delta", "Peek", catalogue.SEALED_COLLECTION, key, peer="regulator"),
    )


@attack(
    "calling a contract service directly",
    by="outsider",
    does="Dials the regulator's contract service without a certificate, and with one of delta's.",
    expect=refused("TLS"),
)
async def direct_call(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    network = bout.network.network
    signer = bout.scenario.signers["delta"]
    roots = network.organisations["regulator"].tls.certificate_pem
    address = network.servers["regulator"].address
    anonymous = Endpoint(address=address, tls_roots_pem=roots)
    client = Endpoint(
        address=address,
        tls_roots_pem=roots,
        client_certificate=signer.identity.certificate_pem,
        client_key=private_key_pem(signer.private_key),
    )
    key = create_private_key()
    issued = network.organisations["delta"].tls.issue(key.public_key(), common_name="peer0.delta", unit=None, tls=True)
    own_tls = Endpoint(address=address, tls_roots_pem=roots, client_certificate=issued, client_key=private_key_pem(key))
    return tuple(dict.fromkeys([await dial(one) for one in (anonymous, client, own_tls)]))


async def dial(endpoint: Endpoint) -> Outcome:
    """Open the stream that only the service's own peer may open."""
    message = chaincode_shim_pb2.ChaincodeMessage(type=chaincode_shim_pb2.ChaincodeMessage.KEEPALIVE)
    async with endpoint.open_channel() as channel:
        untyped: Any = channel
        call = untyped.stream_stream(REGISTER)(timeout=10)
        try:
            await call.write(message.SerializeToString())
            answer = await call.read()
        except grpc.aio.AioRpcError as error:
            return refused(name_refusal(f"{error.code().name}: {error.details()}"))
        finally:
            call.cancel()
    return Outcome("succeeded", f"the service says {answer!r}")


# Certificates


@attack(
    "stolen certificate",
    by="institution",
    does="Uses alpha's certificate, which is public, with its own key, at alpha's peer and at its own.",
    expect=refused("access"),
)
async def stolen_certificate(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    alpha, delta = bout.scenario.signers["alpha"], bout.scenario.signers["delta"]
    impostor = Impostor(alpha.identity, delta.private_key)
    return await attempt_all(submit_as(bout, impostor), submit_as(bout, impostor, "delta"))


@attack(
    "certificate of another authority",
    by="outsider",
    does="Makes an authority called like alpha's and issues itself a certificate of alpha.",
    expect=refused("access"),
)
async def other_authority(bout: Bout) -> Outcome:
    await bout.open()
    return await attempt(submit_as(bout, make_organisation("alpha").signer("agent")))


@attack(
    "expired certificate",
    by="outsider",
    does="Uses a certificate of delta that was found on an old disk and ended a minute ago.",
    expect=refused("access"),
)
async def expired(bout: Bout) -> Outcome:
    await bout.open()
    key = create_private_key()
    now = datetime.now(UTC)
    pem = bout.network.network.organisations["delta"].signing.issue(
        key.public_key(),
        common_name="agent",
        unit="client",
        valid_from=now - timedelta(minutes=4),
        valid_until=now - timedelta(minutes=1),
    )
    return await attempt(submit_as(bout, Signer(Identity(msp_id="delta", certificate_pem=pem), key)))


@attack(
    "certificate that is not enrolled",
    by="institution",
    does="Submits as another client of delta, with a good certificate of delta that was never enrolled.",
    expect=refused(Code.CERTIFICATE_MISMATCH),
)
async def not_enrolled(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    other = bout.network.network.signer("delta", "client", "other-client")
    digest = compute_certificate_digest(other.identity.certificate_pem.decode())
    header = (await bout.seal()).header

    async def submit(certificate_digest: str) -> None:
        changed = header.model_copy(update={"certificate_digest": certificate_digest})
        async with bout.arena.client(other) as gateway:
            await gateway.submit(bout.network.name, "SubmitUpdate", bout.sign(changed).encode())

    return await attempt_all(submit(header.certificate_digest), submit(digest))


@attack(
    "revoked certificate",
    by="outsider",
    does="Uses a stolen client of delta that delta's administrators have revoked: a call, a read, and a transaction "
    "that was endorsed before.",
    expect=refused("access"),
)
async def revoked(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    thief = bout.network.network.signer("delta", "client", "thief")
    async with bout.arena.client(thief) as gateway:
        proposal = gateway.propose(bout.network.name, "Transfer", "loot", "alpha", "1")
        # Any endorsed transaction will do: what it would write is not the point.
        bend = gateway.propose(bout.network.name, "Bend", "write", "", "loot", transient={"value": b"1"})
        endorsed = await gateway.endorse(bend, ["delta", "alpha", "beta", "gamma"])
        await bout.arena.revoke("delta", thief)
        return await attempt_all(
            gateway.endorse(proposal), gateway.evaluate(bout.network.name, "ListProgress"), bout.arena.order(endorsed)
        )


@attack(
    "withdrawn certificate",
    by="outsider",
    does="Uses a stolen client of delta whose certificate delta has withdrawn by a transaction: a call, a read, and an "
    "enrolment that was endorsed before.",
    expect=(refused(Code.CERTIFICATE_WITHDRAWN), invalid("MVCC_READ_CONFLICT")),
)
async def withdrawn(bout: Bout) -> tuple[Outcome, ...]:
    await bout.open()
    thief = bout.network.network.signer("delta", "client", "second-thief")
    digest = compute_certificate_digest(thief.identity.certificate_pem.decode())
    name = bout.network.name
    async with bout.arena.client(thief) as gateway:
        elsewhere = await bout.arena.make_scenario(bout.terms)
        endorsed = await gateway.endorse(gateway.propose(name, "Enrol", elsewhere.task, "5"))
        await bout.network.submit("delta", "WithdrawCertificate", digest)
        return await attempt_all(
            gateway.submit(name, "Enrol", bout.task, "85"),
            gateway.evaluate(name, "ListProgress"),
            bout.arena.order(endorsed),
        )


@attack(
    "somebody else's certificate withdrawn",
    by="institution",
    does="Withdraws alpha's certificate, to keep alpha from taking part.",
    expect=without_effect("alpha's counts as before"),
)
async def withdrawn_by_others(bout: Bout) -> Outcome:
    digest = compute_certificate_digest(bout.certificate("alpha"))
    await bout.network.submit("delta", "WithdrawCertificate", digest)
    await bout.finish()
    accepted = "alpha" in (await bout.scenario.round(bout.number)).accepted
    return without_effect("alpha's counts as before") if accepted else succeeded("alpha is kept out")


@attack(
    "other channel",
    by="institution",
    does="Sends its submission to a channel that the peers do not have.",
    expect=refused("channel"),
)
async def other_channel(bout: Bout) -> Outcome:
    await bout.open()
    signer = bout.scenario.signers["delta"]
    args = [b"SubmitUpdate", bout.sign((await bout.seal()).header).encode()]
    proposal = build_proposal("otherchannel", bout.network.name, args, signer)
    return await attempt(bout.network.gateways["delta"].endorse(proposal))


@attack(
    "channel reconfigured by one",
    by="operator",
    does="Puts the regulator off the channel with the signature of delta's administrator only.",
    expect=refused("administrators only"),
)
async def reconfigured(bout: Bout) -> Outcome:
    await bout.open()
    network = bout.network.network
    config = await read_config(network.endpoint("delta"), CHANNEL, network.signer("delta"))
    update = compute_update(config.config, remove_organisation(config, "regulator"), CHANNEL)
    signatures = [sign_update(update, network.signer("delta", "admin"))]
    envelope = build_update_envelope(update, signatures, network.signer("delta", "admin"))
    return await attempt(broadcast(network.orderer_endpoints(), envelope))
