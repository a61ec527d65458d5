"""A signer whose key is elsewhere: a function is asked for each signature.

    signer = CallbackSigner(identity, sign_with_key_service)
    signature = await signer.request_signature(b"message")

Owns hashing before the call and low S after it. Refuses nothing: whether a signature is right, peers judge.
"""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

from cryptography.hazmat.primitives.asymmetric import ec

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import Identity, low_s

SignCallback = Callable[[bytes], bytes | Awaitable[bytes]]


@runtime_checkable
class RemoteSigner(Protocol):
    """An identity whose signatures take a while: they are asked for and awaited."""

    @property
    def identity(self) -> Identity:
        """Who signs."""
        ...

    async def request_signature(self, message: bytes) -> bytes:
        """Have a message signed."""
        ...


@dataclass(frozen=True)
class CallbackSigner:
    """An identity, and a function that signs for it.

    Attributes:
        identity: who signs.
        callback: takes a digest, returns a signature (ECDSA in DER, or Ed25519); plain functions run in a thread,
            coroutine functions in the event loop.
        hash_name: of hashlib, e.g. "sha256", which is what peers verify ECDSA with; None: the callback gets the
            message itself, as Ed25519 wants it.
    """

    identity: Identity
    callback: SignCallback
    hash_name: str | None = "sha256"

    def __post_init__(self) -> None:
        if self.hash_name is not None and self.hash_name not in hashlib.algorithms_available:
            raise IdentityError(f"expected the name of a hash function, e.g. sha256, got {self.hash_name!r}")

    async def request_signature(self, message: bytes) -> bytes:
        """Have a message signed.

        Raises:
            Exception: what the callback raises.
        """
        asked = message if self.hash_name is None else hashlib.new(self.hash_name, message).digest()
        if inspect.iscoroutinefunction(self.callback):
            signature = await self.callback(asked)
        else:
            signature = await asyncio.to_thread(cast("Callable[[bytes], bytes]", self.callback), asked)
        return lower_signature(self.identity, signature)


def lower_signature(identity: Identity, signature: bytes) -> bytes:
    """The signature with S in the lower half of the curve's order, which peers demand and tokens do not give.

    Args:
        identity: whose it is said to be; its key names the curve.
        signature: bytes from the callback; what is no ECDSA signature comes back as it is, and peers refuse it.
    """
    key = identity.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return signature
    try:
        return low_s(signature, key.curve.name)
    except IdentityError:
        return signature
