"""Decoders of what clients send to the embedded node: requests for blocks, transactions, questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

from fabric_protos.common import common_pb2
from fabric_protos.gateway import gateway_pb2
from fabric_protos.orderer import ab_pb2
from fabric_protos.peer import chaincode_event_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.channel.changes import change_batch
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.client.deliver import seek_from, seek_newest, sign_seek
from blockfl.fabric.embedded.endorsing.admission import Admission
from blockfl.fabric.embedded.endorsing.fairness import Turns
from blockfl.fabric.embedded.ordering.reconfiguration import build_config_transaction
from blockfl.fabric.embedded.services.deliver_service import DeliverService, _Refusal
from blockfl.fabric.embedded.services.gateway_service import GatewayService
from blockfl.fabric.embedded.services.rpc import RpcError
from blockfl.fabric.encoding.wire import encode_bytes
from blockfl.fabric.errors import BlockError
from blockfl.fabric.validate import SignatureCache
from support.answer_decoders import channel_msps, drive
from support.channel import CHANNEL, make_channel
from support.decoders import Decoder, of
from support.fabric_decoders import make_channel_config, update_envelopes

# --- blocks are asked for, transactions are to be ordered


@cache
def service() -> DeliverService:
    """A service that takes orders and has no blocks; its clock stands at the time of the requests."""

    async def order(_: bytes) -> None:
        return None

    ledger: Any = SimpleNamespace(config=make_channel_config(), height=7, order=order)
    admission = Admission(make_channel_config, time_window_s=30, signatures=SignatureCache(), clock=requested_at)
    blocks: Any = None
    return DeliverService(ledger=ledger, admission=admission, blocks=blocks)


@cache
def requested_at() -> float:
    payload = common_pb2.Payload.FromString(common_pb2.Envelope.FromString(block_requests()[0]).payload)
    return float(common_pb2.ChannelHeader.FromString(payload.header.channel_header).timestamp.seconds)


@cache
def block_requests() -> Sequence[bytes]:
    return tuple(sign_seek(seek, CHANNEL, make_channel().client) for seek in (seek_newest(), seek_from(3)))


def request_for_blocks(content: bytes) -> None:
    creator, info = service()._admit(content, b"", "event/Block")
    assert creator.msp_id in channel_msps()
    positions(info)


def positions(info: Any) -> None:
    seek = service()._read_seek(info)
    assert 0 <= seek.start <= seek.stop


def seek(content: bytes) -> None:
    try:
        info = ab_pb2.SeekInfo.FromString(content)
    except DecodeError as error:
        raise _Refusal(common_pb2.BAD_REQUEST, "no SeekInfo") from error
    positions(info)


def seeks() -> Sequence[bytes]:
    position = ab_pb2.SeekPosition
    oldest, following = position(oldest=ab_pb2.SeekOldest()), position(next_commit=ab_pb2.SeekNextCommit())
    made = (seek_newest(), seek_from(3), ab_pb2.SeekInfo(start=oldest, stop=following))
    return tuple(bytes(one.SerializeToString()) for one in made)


def to_order(content: bytes) -> None:
    """Taken only with a valid signature of a writer, over what is there."""
    status, text = drive(service()._order(content))
    assert status in common_pb2.Status.values()
    assert bool(text) == (status != common_pb2.SUCCESS)
    if status != common_pb2.SUCCESS:
        raise _Refusal(status, text)
    assert common_pb2.Envelope.FromString(content).payload in ordered_payloads()


@cache
def orders() -> Sequence[bytes]:
    return make_channel().write({"k": b"v"}).envelope, update_envelopes()[0]


@cache
def ordered_payloads() -> Sequence[bytes]:
    return tuple(common_pb2.Envelope.FromString(one).payload for one in orders())


def reconfigure(content: bytes) -> None:
    build_config_transaction(content, make_channel_config(), make_channel().orderer)


@cache
def reconfigurations() -> Sequence[bytes]:
    channel, now = make_channel(), make_channel_config()
    wanted = change_batch(now, replace(now.batch, max_message_count=3))
    update = compute_update(now.config, wanted, now.channel_id)
    admins = [channel.organisations[name].signer("admin", "admin") for name in ("alpha", "beta")]
    return (build_update_envelope(update, [sign_update(update, one) for one in admins], channel.client),)


# --- the gateway


@cache
def gateway() -> GatewayService:
    """A gateway whose ledger takes every transaction and knows one event."""

    async def order(_: bytes) -> None:
        return None

    async def wait_for_transaction(_: str) -> Any:
        return SimpleNamespace(code=0, block_number=7)

    async def events(number: int) -> list[Any]:
        return [chaincode_event_pb2.ChaincodeEvent(chaincode_id="app", tx_id="ab", event_name="E")]

    ledger: Any = SimpleNamespace(
        config=make_channel_config(),
        height=7,
        order=order,
        wait_for_transaction=wait_for_transaction,
        transaction=lambda tx_id: None,
    )
    endorser: Any = SimpleNamespace(organisation="alpha")
    blocks: Any = SimpleNamespace(events=events)
    return GatewayService(
        organisation="alpha",
        endorsers={"alpha": endorser},
        addresses={"alpha": "127.0.0.1:7051", "": "127.0.0.1:7050"},
        ledger=ledger,
        admission=service()._admission,
        blocks=blocks,
        turns=Turns(),
    )


def submit(content: bytes) -> None:
    assert drive(gateway()._submit(content)) == b""


def submissions() -> Sequence[bytes]:
    return tuple(
        encode_bytes(1, b"ab") + encode_bytes(2, CHANNEL.encode()) + encode_bytes(3, envelope) for envelope in orders()
    )


def ask_outcome(content: bytes) -> None:
    said = gateway_pb2.CommitStatusResponse.FromString(drive(gateway()._commit_status(content)))
    assert said.block_number == 7


def outcome_questions() -> Sequence[bytes]:
    client = make_channel().client
    request = gateway_pb2.CommitStatusRequest(
        transaction_id="ab", channel_id=CHANNEL, identity=client.identity.serialized
    ).SerializeToString()
    signed = gateway_pb2.SignedCommitStatusRequest(request=request, signature=client.sign(request))
    return (bytes(signed.SerializeToString()),)


def ask_events(content: bytes) -> None:
    stream: Any = gateway()._chaincode_events(content)
    try:
        assert gateway_pb2.ChaincodeEventsResponse.FromString(drive(anext(stream))).events
    finally:
        drive(stream.aclose())


def event_questions() -> Sequence[bytes]:
    client = make_channel().client
    position = ab_pb2.SeekPosition
    found = []
    for start in (position(specified=ab_pb2.SeekSpecified(number=3)), position(oldest=ab_pb2.SeekOldest())):
        request = gateway_pb2.ChaincodeEventsRequest(
            channel_id=CHANNEL, chaincode_id="app", identity=client.identity.serialized, start_position=start
        ).SerializeToString()
        signed = gateway_pb2.SignedChaincodeEventsRequest(request=request, signature=client.sign(request))
        found.append(bytes(signed.SerializeToString()))
    return found


DECODERS: tuple[Decoder, ...] = (
    of("node: request for blocks", request_for_blocks, (_Refusal,), block_requests),
    of("node: positions of blocks", seek, (_Refusal,), seeks, max_bytes=256),
    of("node: transaction to order", to_order, (_Refusal,), orders, max_bytes=8192),
    of("node: transaction submitted", submit, (RpcError,), submissions, max_bytes=8192),
    of("node: question about an outcome", ask_outcome, (RpcError,), outcome_questions, max_bytes=2048),
    of("node: question about events", ask_events, (RpcError,), event_questions, max_bytes=2048),
    of("node: configuration update to order", reconfigure, (BlockError,), reconfigurations, max_bytes=8192),
)
