"""A signer whose key is in a PKCS#11 token: a hardware security module, a smart card, SoftHSM.

    with Pkcs11Signer.open(identity, library="/usr/lib/softhsm/libsofthsm2.so", token="fabric", pin=pin) as signer:
        async with Gateway(endpoint, signer, "fed") as gateway: ...

The key never leaves the token: it is found by its id, asked for signatures, and not read. Needs the extra `pkcs11`.
Refuses a key that does not belong to the identity's certificate.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from dataclasses import dataclass
from typing import Any, Self

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import Identity, low_s, verify_signature


class Pkcs11Signer:
    """An identity whose private key is in a token; made by `open`, to be closed.

    Tokens sign one message at a time, and take milliseconds: in asyncio `request_signature` waits in a thread.
    """

    def __init__(self, identity: Identity, login: _Login, session: Any, key: Any) -> None:
        self.identity = identity
        self._login = login
        self._session = session
        self._key = key
        self._turn = threading.Lock()

    @classmethod
    def open(
        cls, identity: Identity, *, library: str | os.PathLike[str], token: str, pin: str, key_id: bytes | None = None
    ) -> Self:
        """Log in to a token and find the identity's key.

        Args:
            identity: whose key it is; its certificate is on disk, not in the token.
            library: the token's PKCS#11 library.
            token: label of the token.
            pin: of its user.
            key_id: CKA_ID of the private key; by default SHA-256 of the public key's point, as Fabric's own tools
                name keys.

        Raises:
            IdentityError: library, token, PIN or key are not what they should be, or the extra is not installed.
        """
        public_key = identity.public_key
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise IdentityError(f"expected an ECDSA certificate of {identity.msp_id} for a token, got an Ed25519 one")
        login = _log_in(os.fspath(library), token, pin)
        signer = cls(identity, login, login.token.open(), None)
        try:
            signer._key = _find_key(signer._session, key_id or subject_key_id(public_key))
            probe = os.urandom(32)
            verify_signature(public_key, signer.sign(probe), probe)
        except IdentityError as error:
            signer.close()
            raise IdentityError(
                f"the token {token!r} has no key of {identity.msp_id}'s certificate: {error}"
            ) from error
        return signer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; the last one logs out of the token."""
        with self._turn:
            session, self._session = self._session, None
            if session is not None:
                session.close()
                self._login.release()

    def sign(self, message: bytes) -> bytes:
        """Sign a message: ECDSA over its SHA-256 (DER, low S). Blocks while the token works.

        Raises:
            IdentityError: the token does not sign, or the signer is closed.
        """
        import pkcs11

        digest = hashlib.sha256(message).digest()
        with self._turn:
            if self._session is None:
                raise IdentityError("the token's session is closed: open the signer again")
            try:
                raw: bytes = self._key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA)
            except pkcs11.PKCS11Error as error:
                raise IdentityError(f"the token does not sign: {_explain(error)}") from error
        half = len(raw) // 2
        encoded = utils.encode_dss_signature(int.from_bytes(raw[:half]), int.from_bytes(raw[half:]))
        key = self.identity.public_key
        assert isinstance(key, ec.EllipticCurvePublicKey)
        return low_s(encoded, key.curve.name)

    async def request_signature(self, message: bytes) -> bytes:
        """As `sign`, without holding up the event loop."""
        return await asyncio.to_thread(self.sign, message)


def subject_key_id(key: ec.EllipticCurvePublicKey) -> bytes:
    """SHA-256 of the uncompressed point: what Fabric's tools name a key by.

    Source: Hyperledger Fabric 3.1, bccsp/pkcs11, `SKI`.
    """
    point = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return hashlib.sha256(point).digest()


@dataclass
class _Login:
    """A login to a token, which all sessions of a process share: who logs out, logs all of them out."""

    place: tuple[str, str]
    token: Any
    session: Any
    users: int = 0

    def release(self) -> None:
        with _LOGINS_LOCK:
            self.users -= 1
            if self.users == 0:
                del _LOGINS[self.place]
                self.session.close()


_LOGINS: dict[tuple[str, str], _Login] = {}
_LOGINS_LOCK = threading.Lock()


def _log_in(library: str, label: str, pin: str) -> _Login:
    try:
        import pkcs11
    except ImportError as error:
        raise IdentityError("keys in tokens need the extra: pip install 'blockfl[pkcs11]'") from error
    with _LOGINS_LOCK:
        login = _LOGINS.get((library, label))
        if login is None:
            try:
                token = pkcs11.lib(library).get_token(token_label=label)
                login = _Login((library, label), token, token.open(user_pin=pin))
            except (pkcs11.PKCS11Error, OSError, RuntimeError) as error:
                raise IdentityError(
                    f"cannot log in to the token {label!r} of {library}: {_explain(error)}: check library, "
                    "label and PIN"
                ) from error
            _LOGINS[library, label] = login
        login.users += 1
        return login


def _find_key(session: Any, key_id: bytes) -> Any:
    import pkcs11

    try:
        return session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, key_type=pkcs11.KeyType.EC, id=key_id)
    except pkcs11.PKCS11Error as error:
        raise IdentityError(f"expected an EC private key with the id {key_id.hex()}: {_explain(error)}") from error


def _explain(error: Exception) -> str:
    return str(error) or type(error).__name__
