"""How long calls may take, and what happens to the call when the caller gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from blockfl.fabric.client.gateway import Gateway, Timeouts
from blockfl.fabric.errors import CommitStatusError, EndorseError, EvaluateError, GatewayError, SubmitError
from support.scripted_peer import Fault, ScriptedPeer, scripted_peer

DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
SHORT_S = 0.2
STREAM_S = 1.0
"""Time enough for what is there already, on a busy machine, too."""


class PatientPeer:
    """A scripted peer that does not answer some methods, and tells when a caller has hung up."""

    def __init__(self, peer: ScriptedPeer) -> None:
        self.peer = peer
        self.silent: set[str] = set()
        self.asked = asyncio.Event()
        self.given_up = asyncio.Event()
        self._begin = peer.begin
        peer.begin = self.begin  # type: ignore[method-assign]

    async def begin(self, method: str, context: Any) -> Fault | None:
        if method in self.silent:
            self.asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                self.given_up.set()
        return await self._begin(method, context)


@pytest.fixture
async def quiet() -> AsyncIterator[PatientPeer]:
    async with scripted_peer() as one:
        yield PatientPeer(one)


def connect(quiet: PatientPeer, timeouts: Timeouts | None = None) -> Gateway:
    return Gateway(quiet.peer.endpoint, quiet.peer.organisation.signer("agent"), "fed", timeouts=timeouts)


DEFAULTS: dict[str, tuple[str, type[GatewayError]]] = {
    "evaluate_s": ("Evaluate", EvaluateError),
    "endorse_s": ("Endorse", EndorseError),
    "submit_s": ("Submit", SubmitError),
    "commit_s": ("CommitStatus", CommitStatusError),
}


async def call_with(gateway: Gateway, method: str, timeouts: Timeouts | None) -> None:
    """Makes a call that waits for this method; with no timeouts of its own the gateway's count."""
    if method == "Evaluate":
        await gateway.evaluate("app", "Get", timeout_s=timeouts.evaluate_s if timeouts else None)
    elif method == "CommitStatus":
        await gateway.submit("app", "Put", timeouts=timeouts, retries=0)
    else:
        await gateway.submit_async("app", "Put", timeouts=timeouts)


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("where", ["gateway", "call"])
async def test_each_kind_of_call_has_its_deadline(quiet: PatientPeer, name: str, where: str) -> None:
    method, kind = DEFAULTS[name]
    quiet.silent.add(method)
    short = Timeouts(**{name: SHORT_S})
    async with connect(quiet, short if where == "gateway" else None) as gateway:
        with pytest.raises(kind, match=r"\(DEADLINE_EXCEEDED\)") as caught:
            await call_with(gateway, method, short if where == "call" else None)
    assert caught.value.status is DEADLINE
    if quiet.asked.is_set():  # else the time was over before the peer heard of it
        await asyncio.wait_for(quiet.given_up.wait(), 5)


async def test_a_stream_of_events_ends_when_its_time_is_over(quiet: PatientPeer) -> None:
    await quiet.peer.emit("a")
    async with connect(quiet) as gateway, gateway.events("app", start_block=0, timeout_s=STREAM_S) as events:
        assert (await anext(events)).name == "a"
        with pytest.raises(GatewayError) as caught:
            await anext(events)
    assert caught.value.status is DEADLINE


async def test_a_stream_of_blocks_ends_when_its_time_is_over(quiet: PatientPeer) -> None:
    async with connect(quiet, Timeouts(blocks_s=STREAM_S)) as gateway:
        blocks = gateway.blocks(0)
        assert (await anext(blocks)).header.number == 0
        with pytest.raises(GatewayError) as caught:
            await anext(blocks)
    assert caught.value.status is DEADLINE


async def test_the_time_of_a_stream_includes_reconnecting(quiet: PatientPeer) -> None:
    quiet.peer.fail("ChaincodeEvents", *[Fault(code=grpc.StatusCode.UNAVAILABLE)] * 50)
    async with connect(quiet) as gateway, gateway.events("app", start_block=0, timeout_s=STREAM_S) as events:
        with pytest.raises(GatewayError, match="cannot read the events of app"):
            await anext(events)
    assert quiet.peer.calls.count("ChaincodeEvents") < 5


@pytest.mark.parametrize("method", ["Evaluate", "Endorse", "Submit", "CommitStatus"])
async def test_who_gives_up_hangs_up(quiet: PatientPeer, method: str) -> None:
    quiet.silent.add(method)
    async with connect(quiet) as gateway:
        call = gateway.evaluate("app", "Get") if method == "Evaluate" else gateway.submit("app", "Put")
        task = asyncio.ensure_future(call)
        await quiet.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(quiet.given_up.wait(), 5)


async def test_closing_a_stream_hangs_up(quiet: PatientPeer) -> None:
    quiet.silent.add("ChaincodeEvents")
    async with connect(quiet) as gateway:
        events = gateway.events("app", start_block=0)
        waiting = asyncio.ensure_future(anext(events))
        await quiet.asked.wait()
        waiting.cancel()
        await asyncio.wait([waiting])
        await events.aclose()
        await asyncio.wait_for(quiet.given_up.wait(), 5)
