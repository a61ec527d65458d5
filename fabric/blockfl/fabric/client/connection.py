"""One identity's connection to one peer: calls with deadlines, signatures, errors of ours.

Owns the gRPC channel (its own, or one that several clients share) and who signs. What is called is for the modules
above.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final

import grpc
import grpc.aio

from blockfl.fabric.client.deliver import build_seek_payload, read_answers
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.stages import Timeouts
from blockfl.fabric.client.status import gateway_error
from blockfl.fabric.errors import FabricError, GatewayError, IdentityError
from blockfl.fabric.identity.callback import RemoteSigner
from blockfl.fabric.identity.signing import Identity, MessageSigner, Signer
from blockfl.fabric.transaction.envelope import encode_envelope

AnySigner = MessageSigner | RemoteSigner | Identity
"""Who signs: at once; when asked; or, with an identity alone, somebody elsewhere (`signable`)."""

Attempt = Callable[[float], Coroutine[Any, Any, bytes]]
"""A call; it is told how long it may take, in seconds."""

_SERVICE: Final = "/gateway.Gateway/"
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 2.0
_NO_PEERS_YET: Final = "no combination of peers can be derived"
_NOT_LAUNCHED: Final = re.compile(
    r"could not launch chaincode \S+ (chaincode registration failed: )?connection to (?!.*expected it to run package)"
)
"""A peer's words, real or embedded, while nobody answers where the contract service should be."""
_ENDED: Final = re.compile("chaincode stream terminated")
_CROWDED: Final = re.compile(r"exceeding concurrency limit|calls running and \d+ waiting")
"""A real peer's words and the embedded node's while as many calls run as it takes at a time; it has begun nothing."""


class Connection:
    """Calls of one peer's Gateway and Deliver services as one identity.

    Args:
        endpoint: the peer.
        signer: who asks.
        timeouts: how long each kind of call may take.
        shared: a channel of the caller's to use; it is neither opened nor closed here.
    """

    def __init__(
        self, endpoint: Endpoint, signer: AnySigner, timeouts: Timeouts, shared: grpc.aio.Channel | None
    ) -> None:
        self.endpoint = endpoint
        self.signer = signer
        self.timeouts = timeouts
        self._shared = shared
        self._channel = shared

    @property
    def identity(self) -> Identity:
        """Who asks."""
        return self.signer if isinstance(self.signer, Identity) else self.signer.identity

    @property
    def channel(self) -> grpc.aio.Channel:
        """The open channel.

        Raises:
            FabricError: it is not open.
        """
        if self._channel is None:
            raise FabricError("the gateway is not open: use it inside `async with`")
        return self._channel

    def open(self) -> None:
        """Open the channel; the first call connects."""
        if self._channel is None:
            self._channel = self.endpoint.open_channel()

    async def close(self) -> None:
        """Close the channel; calls that run are cancelled. One that is shared stays open."""
        channel, self._channel = self._channel, self._shared
        if channel is not None and channel is not self._shared:
            await channel.close(None)

    async def sign(self, message: bytes) -> bytes:
        """Sign a message, or have it signed.

        Raises:
            IdentityError: there is no signer.
        """
        match self.signer:
            case Identity(msp_id=msp_id):
                raise IdentityError(
                    f"expected a signer for {msp_id}, got an identity alone: sign offline (bytes out, signature in), "
                    "or give the gateway a signer"
                )
            case Signer() as local:
                return local.sign(message)
            case RemoteSigner() as remote:
                return await remote.request_signature(message)
            case other:
                return other.sign(message)

    async def call(
        self, kind: type[GatewayError], what: str, method: str, request: bytes, timeout_s: float, transaction_id: str
    ) -> bytes:
        """Call a method of the Gateway service once.

        Raises:
            GatewayError: of this kind; the call failed, or took too long.
        """
        # Untyped: the type stubs want serialisers, and without them gRPC takes and gives bytes.
        channel: Any = self.channel
        try:
            answer: bytes = await channel.unary_unary(_SERVICE + method)(request, timeout=timeout_s)
            return answer
        except grpc.aio.AioRpcError as error:
            raise gateway_error(kind, what, error, transaction_id) from error

    async def wait_for_place(self, call: Attempt, timeout_s: float) -> bytes:
        """Make a call, again while the peer runs as many as it takes at a time: it has begun nothing then.

        Args:
            call: takes how long it may take, in seconds.
            timeout_s: how long all of that may take.
        """
        until, attempt = time.monotonic() + timeout_s, 0
        while True:
            try:
                return await call(until - time.monotonic())
            except GatewayError as error:
                left_s = until - time.monotonic()
                if not (_is_crowded(error) and left_s > _FIRST_PAUSE_S):
                    raise
            await asyncio.sleep(min(pause_s(attempt), left_s / 2))
            attempt += 1

    async def try_again(self, call: Attempt, timeout_s: float, retries: int) -> bytes:
        """Make a call that orders nothing, again while the peer cannot be reached or is only just back.

        While the caller's own contract service is away the call waits for it as long as it may take: it restarts. It
        waits for a place at a busy peer, too.

        Args:
            call: takes how long it may take, in seconds.
            timeout_s: how long one attempt may take, and all of those that wait for a contract service together.
            retries: how often to try again at most where a peer is away; 0: never, and nothing is waited for.
        """
        until = time.monotonic() + timeout_s
        limit_s, failures, attempt = timeout_s, 0, 0
        while True:
            try:
                return await (self.wait_for_place(call, limit_s) if retries else call(limit_s))
            except GatewayError as error:
                waits = retries > 0 and self._waits_for_contract(error)
                failures += not waits
                left_s = until - time.monotonic()
                if failures > retries or not (left_s > _FIRST_PAUSE_S if waits else self._may_pass(error)):
                    raise
            limit_s = left_s if waits else timeout_s
            await asyncio.sleep(min(pause_s(attempt), left_s / 2) if waits else pause_s(attempt))
            attempt += 1

    async def read_events(
        self, signed_request: bytes, what: str, timeout_s: float | None
    ) -> AsyncGenerator[bytes, None]:
        """Read the answers to a request for chaincode events until the connection ends.

        Raises:
            GatewayError: the peer refuses, or the connection broke.
        """
        channel: Any = self.channel
        call = channel.unary_stream(_SERVICE + "ChaincodeEvents")(signed_request, timeout=timeout_s)
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise gateway_error(GatewayError, what, error) from error
        finally:
            call.cancel()

    async def seek(
        self, seek: Any, channel_id: str, method: str, timeout_s: float | None = None
    ) -> AsyncGenerator[Any, None]:
        """Sign a request for blocks, and read the answers.

        Raises:
            GatewayError: the peer refuses, or the connection broke.
        """
        envelope = await self.sign_seek(seek, channel_id)
        async with aclosing(read_answers(self.channel, envelope, method=method, timeout_s=timeout_s)) as answers:
            async for one in answers:
                yield one

    async def sign_seek(self, seek: Any, channel_id: str) -> bytes:
        """Make a request for blocks (serialised common.Envelope) and sign it."""
        payload = self.build_seek(seek, channel_id)
        return encode_envelope(payload, await self.sign(payload))

    def build_seek(self, seek: Any, channel_id: str) -> bytes:
        """Make a request for blocks (common.Payload) that is still to be signed."""
        return build_seek_payload(seek, channel_id, self.identity, self.endpoint.client_certificate_hash)

    def _may_pass(self, error: GatewayError) -> bool:
        if error.status == grpc.StatusCode.UNAVAILABLE:
            # Over a connection that stands it is the gateway's own answer: it lacks the endorsers asked for.
            return self.channel.get_state() != grpc.ChannelConnectivity.READY
        # A peer that was restarted does not know the others yet; a contract that was killed did nothing.
        return (error.status == grpc.StatusCode.FAILED_PRECONDITION and _NO_PEERS_YET in str(error)) or (
            self._is_about_own_contract(error, _ENDED)
        )

    def _waits_for_contract(self, error: GatewayError) -> bool:
        """Whether all that is missing is the caller's own contract service; other organisations can be left out."""
        return self._is_about_own_contract(error, _NOT_LAUNCHED)

    def _is_about_own_contract(self, error: GatewayError, words: re.Pattern[str]) -> bool:
        return (
            error.status == grpc.StatusCode.ABORTED
            and bool(error.details)
            and all(one.msp_id == self.identity.msp_id and words.search(one.message) for one in error.details)
        )


def _is_crowded(error: GatewayError) -> bool:
    """Whether a peer refuses only because of how many calls it runs; its gateway passes on what another peer says."""
    return any(_CROWDED.search(words) for words in (str(error), *(one.message for one in error.details)))


async def pause(attempt: int) -> None:
    """Wait before the next attempt: longer after each."""
    await asyncio.sleep(pause_s(attempt))


def pause_s(attempt: int) -> float:
    """How long to wait before the next attempt, in seconds."""
    return float(min(_FIRST_PAUSE_S * 2 ** min(attempt, 10), _LONGEST_PAUSE_S))
