"""When a call of the gateway client is made again, by what the peer says. The words are those of peers' own code."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from blockfl.fabric.client.calls import read_status, send
from blockfl.fabric.client.connection import Connection
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.stages import Timeouts
from blockfl.fabric.errors import EndorseError, ErrorDetail, GatewayError
from support.organisation import make_organisation

# internal/peer/node/grpc_limiters.go of Fabric 3.1, and what the embedded node says.
LIMITED = "too many requests for /gateway.Gateway, exceeding concurrency limit (500)"
LIMITED_ENDORSER = "too many requests for /protos.Endorser, exceeding concurrency limit (2500)"
NO_TURN = "alpha has 8 calls running and 32 waiting, which is all it may: try again when some have ended"
TOO_LARGE = "Received message larger than max (104857601 vs. 104857600)"

CROWDED = {
    "a peer's gateway": EndorseError(f"cannot endorse: {LIMITED}", status=grpc.StatusCode.UNKNOWN),
    "another peer, through the gateway": EndorseError(
        "cannot endorse: failed to collect enough transaction endorsements",
        status=grpc.StatusCode.ABORTED,
        details=(ErrorDetail(address="peer:7051", msp_id="beta", message=LIMITED_ENDORSER),),
    ),
    "the embedded node": EndorseError(f"cannot endorse: {NO_TURN}", status=grpc.StatusCode.RESOURCE_EXHAUSTED),
}


class Peer:
    """Refuses with an error so many times, and then answers."""

    def __init__(self, error: GatewayError, times: int) -> None:
        self.error, self.times, self.calls = error, times, 0

    async def __call__(self, limit_s: float) -> bytes:
        self.calls += 1
        if self.calls <= self.times:
            raise self.error
        return b"answer"


@pytest.fixture
def connection() -> Connection:
    alpha = make_organisation("alpha")
    peer = Endpoint(address="127.0.0.1:1", tls_roots_pem=alpha.tls.certificate_pem)
    return Connection(peer, alpha.signer("agent").identity, Timeouts(), None)


@pytest.mark.parametrize("error", CROWDED.values(), ids=list(CROWDED))
async def test_a_call_waits_while_a_peer_runs_as_many_as_it_takes(connection: Connection, error: GatewayError) -> None:
    # More often than it is made again for a peer that is away.
    peer = Peer(error, times=3)
    assert await connection.try_again(peer, timeout_s=30.0, retries=1) == b"answer"
    assert peer.calls == 4


@pytest.mark.parametrize("error", CROWDED.values(), ids=list(CROWDED))
async def test_it_waits_no_longer_than_a_call_may_take(connection: Connection, error: GatewayError) -> None:
    peer = Peer(error, times=1_000_000)
    with pytest.raises(EndorseError) as caught:
        await connection.try_again(peer, timeout_s=0.5, retries=3)
    assert caught.value is error
    assert 2 <= peer.calls <= 10


async def test_a_caller_that_wants_no_retries_is_told_at_once(connection: Connection) -> None:
    peer = Peer(CROWDED["the embedded node"], times=1)
    with pytest.raises(EndorseError):
        await connection.try_again(peer, timeout_s=30.0, retries=0)
    assert peer.calls == 1


async def test_a_message_that_is_too_large_is_not_sent_again(connection: Connection) -> None:
    peer = Peer(EndorseError(TOO_LARGE, status=grpc.StatusCode.RESOURCE_EXHAUSTED), times=1)
    with pytest.raises(EndorseError):
        await connection.try_again(peer, timeout_s=30.0, retries=3)
    assert peer.calls == 1


@pytest.mark.parametrize("error", CROWDED.values(), ids=list(CROWDED))
async def test_submitting_and_asking_for_the_outcome_wait_for_a_place_too(
    connection: Connection, error: GatewayError, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def call(_: Connection, kind: Any, what: str, method: str, *rest: Any) -> bytes:
        asked.append(method)
        if asked.count(method) < 3:
            raise error
        return b""

    monkeypatch.setattr(Connection, "call", call)
    await send(connection, "channel", "tx", b"envelope", timeout_s=30.0)
    await read_status(connection, b"request", b"signature", "tx", timeout_s=30.0)
    assert asked == ["Submit"] * 3 + ["CommitStatus"] * 3


async def test_any_other_refusal_of_a_submission_is_told_at_once(connection: Connection) -> None:
    peer = Peer(EndorseError("no orderers could successfully process", status=grpc.StatusCode.UNAVAILABLE), times=1)
    with pytest.raises(EndorseError):
        await connection.wait_for_place(peer, timeout_s=30.0)
    assert peer.calls == 1
