"""Sealing an update to the committee, and opening it.

Owns: how the keys follow from the seed, the sealed chunks, the wrapped keys. Sealing is a function of the payload
(which ends with the fresh seed), the place and the recipients; nothing else is random, so that everything can be
checked by repeating it:

    data key     = HKDF(salt = payload digest, seed, place)      wrapped to each member; another payload, another key
    chunk key    = HKDF(data key)                                AES-256-GCM, nonce = index of the chunk
    commitment   = HKDF(data key)                                public; AES-GCM alone commits to no key
    ephemeral_i  = HKDF(data key, place, recipient i)            HPKE with this ephemeral key wraps the data key

A member that opens its own wrap has the data key, repeats *all* wraps and compares, before it looks at a chunk. So all
members answer the same: if any wrap is not the one that the data key gives, a member that can open refuses with BFL412,
and one that cannot open refuses with BFL412 too. If all are, everybody holds the same key, and every later check has
the same result everywhere. What a member finds wrong with *itself* (its key is not the round's, the bytes are not those
announced) is an error of another class (BFL119, BFL304), never a verdict.

A member that only pretends that it cannot open is outvoted: its answer differs from the others', who reach the
threshold without it. ``derive_ephemeral_key`` is what proves it wrong before everybody: see ``dispute``.

Source: ``docs/protocol.md``, sealing; RFC 9180; RFC 5869.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blockfl.protocol import hpke
from blockfl.protocol.canonical import ChannelName, MspId, Name, Natural, Positive, Record, compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.hpke import KemPrivateKey, OpeningKey
from blockfl.protocol.payload import SEED_BYTES
from blockfl.protocol.records import CHUNK_BYTES, Header, PublicKey, Recipient, WrappedKey

TAG_BYTES: Final = 16
PLAIN_CHUNK_BYTES: Final = CHUNK_BYTES - TAG_BYTES

_DATA_KEY = b"BLOCKFL-DATA-KEY-V1\0"
_CHUNK_KEY = b"BLOCKFL-CHUNK-KEY-V1\0"
_KEY_COMMITMENT = b"BLOCKFL-KEY-COMMITMENT-V1\0"
_EPHEMERAL_KEY = b"BLOCKFL-EPHEMERAL-KEY-V1\0"
_COMMITMENT_SECRET = b"BLOCKFL-COMMITMENT-SECRET-V1\0"
_WRAP = b"BLOCKFL-WRAP-V1\0"
_CHUNK = b"BLOCKFL-CHUNK-V1\0"


class SealPlace(Record):
    """Where a sealed update belongs; a seal opens nowhere else."""

    network: Name
    channel: ChannelName
    contract: Name
    task: Name
    round: Positive
    organisation: MspId

    @classmethod
    def of(cls, header: Header) -> "SealPlace":
        """Return the place that a header names."""
        return cls(
            network=header.network,
            channel=header.channel,
            contract=header.contract,
            task=header.task,
            round=header.round,
            organisation=header.organisation,
        )


class _ChunkPlace(Record):
    place: SealPlace
    index: Natural
    count: Positive


class _WrapPlace(Record):
    place: SealPlace
    organisation: MspId
    public_key: PublicKey


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A sealed update: the chunks, and what its header says about them."""

    chunks: tuple[bytes, ...]
    chunk_digests: tuple[str, ...]
    wrapped_keys: tuple[WrappedKey, ...]
    key_commitment: str
    payload_digest: str
    payload_bytes: int


def seal(payload: bytes, seed: bytes, place: SealPlace, recipients: Sequence[Recipient]) -> Sealed:
    """Seal a payload to the members of the committee.

    Args:
        payload: ends with the seed.
        seed: 32 bytes, fresh for every update.
        place: where the update belongs.
        recipients: the round's committee.

    Raises:
        ProtocolError: BFL414 if the payload does not end with the seed, BFL406 if there is no recipient or one's key
            is unusable.
    """
    if len(seed) != SEED_BYTES or not payload.endswith(seed):
        raise ProtocolError(Code.PAYLOAD_FORMAT, f"expected a payload that ends with its seed of {SEED_BYTES} bytes")
    if not recipients:
        raise ProtocolError(Code.HEADER_RECIPIENTS, "expected at least one committee member to seal to, got none")
    payload_digest = compute_digest(payload)
    data_key = derive_data_key(seed, place, payload_digest)
    cipher = AESGCM(hpke.expand(data_key, _CHUNK_KEY, 32))
    count = compute_chunk_count(len(payload))
    view = memoryview(payload)
    chunks = tuple(
        cipher.encrypt(
            _nonce(index),
            view[index * PLAIN_CHUNK_BYTES : (index + 1) * PLAIN_CHUNK_BYTES],
            _chunk_context(place, index, count),
        )
        for index in range(count)
    )
    return Sealed(
        chunks=chunks,
        chunk_digests=tuple(compute_digest(chunk) for chunk in chunks),
        wrapped_keys=tuple(_wrap(data_key, place, one.organisation, one.public_key) for one in recipients),
        key_commitment=commit_key(data_key),
        payload_digest=payload_digest,
        payload_bytes=len(payload),
    )


def unwrap_data_key(header: Header, organisation: str, private_key: OpeningKey) -> bytes:
    """Return the data key, after repeating every member's wrap and the key commitment.

    Raises:
        ProtocolError: BFL412, BFL411, or BFL119 as in ``find_data_key``.
    """
    data_key = recover_data_key(header, organisation, private_key)
    _check_wraps(header, data_key)
    _check_key_commitment(header, data_key)
    return data_key


def find_data_key(header: Header, organisation: str, private_key: OpeningKey) -> bytes | None:
    """Return what a member's own wrap holds, None if that does not open.

    Raises:
        ProtocolError: BFL119, a fault of this member: the update is not sealed to it, or to another opening key.
    """
    own = next((one for one in header.wrapped_keys if one.organisation == organisation), None)
    if own is None or own.public_key != encode_public_key(private_key):
        raise ProtocolError(
            Code.OPENING_KEY,
            f"the update is {'not sealed to' if own is None else 'sealed to another key of'} {organisation}: "
            "open it with the key that was registered when the round opened",
        )
    context = _wrap_context(SealPlace.of(header), own.organisation, own.public_key)
    try:
        return hpke.decrypt(bytes.fromhex(own.encapsulation), bytes.fromhex(own.ciphertext), private_key, context)
    except hpke.HpkeError:
        return None


def recover_data_key(header: Header, organisation: str, private_key: OpeningKey) -> bytes:
    """Return what a member's own wrap holds, without a look at the other wraps or the key commitment.

    Raises:
        ProtocolError: BFL412 if it does not open, BFL119 as in ``find_data_key``.
    """
    data_key = find_data_key(header, organisation, private_key)
    if data_key is None:
        raise _wrap_error()
    return data_key


def open_chunks(header: Header, chunks: Iterable[bytes], data_key: bytes) -> bytearray | None:
    """Return the payload in an update's chunks, None if one does not have its length or does not open.

    Args:
        header: the signed header.
        chunks: the sealed chunks in order, taken one at a time.
        data_key: what the wraps hold.

    Raises:
        ProtocolError: BFL304, a fault of this member: these are not the announced chunks.
    """
    place = SealPlace.of(header)
    count = len(header.chunk_digests)
    if count != compute_chunk_count(header.payload_bytes):
        return None
    cipher = AESGCM(hpke.expand(data_key, _CHUNK_KEY, 32))
    payload = bytearray(header.payload_bytes)
    is_broken = False
    received = 0
    for index, chunk in enumerate(chunks):
        if index >= count or hashlib.sha256(chunk).hexdigest() != header.chunk_digests[index]:
            raise ProtocolError(
                Code.CHUNK_MISMATCH, f"chunk {index} of {header.organisation} is not the announced one: fetch it again"
            )
        received += 1
        start = index * PLAIN_CHUNK_BYTES
        if is_broken or len(chunk) != compute_chunk_bytes(header.payload_bytes, index):
            is_broken = True
            continue
        try:
            payload[start : start + len(chunk) - TAG_BYTES] = cipher.decrypt(
                _nonce(index), chunk, _chunk_context(place, index, count)
            )
        except InvalidTag:
            is_broken = True
    if received != count:
        raise ProtocolError(Code.CHUNK_MISMATCH, f"expected {count} chunks, got {received}: fetch the others")
    return None if is_broken else payload


def open_wrap(header: Header, wrap: WrappedKey, ephemeral_key: KemPrivateKey) -> bytes | None:
    """Return the data key in a wrap, opened with its ephemeral key; None when it does not open."""
    context = _wrap_context(SealPlace.of(header), wrap.organisation, wrap.public_key)
    public_key, ciphertext = bytes.fromhex(wrap.public_key), bytes.fromhex(wrap.ciphertext)
    try:
        return hpke.decrypt_as_sender(ephemeral_key, public_key, ciphertext, context)
    except hpke.HpkeError:
        return None


def is_wrap_of(header: Header, data_key: bytes, wrap: WrappedKey) -> bool:
    """Whether a wrap is the one that a data key gives."""
    try:
        return _wrap(data_key, SealPlace.of(header), wrap.organisation, wrap.public_key) == wrap
    except ProtocolError:
        return False


def verify_wraps(header: Header, seed: bytes) -> None:
    """Verify every wrapped key of a header against the seed, as the sender or an auditor who was shown it can.

    Raises:
        ProtocolError: BFL412 if one is not what the seed gives, BFL411 if the key commitment is not.
    """
    data_key = derive_data_key(seed, SealPlace.of(header), header.payload_digest)
    _check_wraps(header, data_key)
    if not hmac.compare_digest(commit_key(data_key), header.key_commitment):
        raise ProtocolError(Code.KEY_COMMITMENT, "the key commitment is not the one that the seed gives")


def derive_data_key(seed: bytes, place: SealPlace, payload_digest: str) -> bytes:
    """Return the data key: HKDF of the seed, salted with the payload's digest, for this place only."""
    secret = hpke.extract(bytes.fromhex(payload_digest), seed)
    return hpke.expand(secret, _DATA_KEY + place.encode(), 32)


def derive_commitment_secret(seed: bytes, place: SealPlace, payload_digest: str) -> bytes:
    """Return the secret that the randomness of the update's commitment is expanded from.

    It does not follow from the data key, which disclosing an ephemeral key would show to everybody.
    """
    secret = hpke.extract(bytes.fromhex(payload_digest), seed)
    return hpke.expand(secret, _COMMITMENT_SECRET + place.encode(), 32)


def derive_ephemeral_key(data_key: bytes, place: SealPlace, recipient: Recipient) -> KemPrivateKey:
    """Return the ephemeral key of one wrap; a party that is shown it can open this wrap and no other."""
    info = _EPHEMERAL_KEY + _wrap_context(place, recipient.organisation, recipient.public_key)
    return hpke.find_kem(bytes.fromhex(recipient.public_key)).derive(hpke.expand(data_key, info, 32))


def derive_ephemeral_key_of(header: Header, data_key: bytes, wrap: WrappedKey) -> KemPrivateKey:
    """Return the ephemeral key of one of a header's wraps."""
    recipient = Recipient(organisation=wrap.organisation, public_key=wrap.public_key)
    return derive_ephemeral_key(data_key, SealPlace.of(header), recipient)


def commit_key(data_key: bytes) -> str:
    """Return the public commitment to a data key, hex."""
    return hpke.expand(data_key, _KEY_COMMITMENT, 32).hex()


def compute_chunk_count(payload_bytes: int) -> int:
    """Return the number of chunks that a payload of this length is sealed into."""
    return -(-payload_bytes // PLAIN_CHUNK_BYTES)


def compute_chunk_bytes(payload_bytes: int, index: int) -> int:
    """Return the length of a sealed chunk."""
    return min(PLAIN_CHUNK_BYTES, payload_bytes - index * PLAIN_CHUNK_BYTES) + TAG_BYTES


def encode_public_key(private_key: OpeningKey) -> str:
    """Return the public opening key of a private one, hex, as it is registered on the ledger."""
    return private_key.public_key().public_bytes_raw().hex()


def decode_opening_key(text: str) -> KemPrivateKey:
    """Return the private opening key from its bytes in hex, 64 digits (surrounding whitespace is ignored).

    Raises:
        ProtocolError: BFL301, without showing the text.
    """
    try:
        return hpke.read_private_key(bytes.fromhex(text.strip()))
    except ValueError as error:
        raise ProtocolError(Code.MALFORMED, "expected an opening key of 64 hex digits, got something else") from error


def check_public_key(public_key: str) -> None:
    """Check that updates can be sealed to a public opening key: in lower-case hex, of a known kind, not of low order.

    Raises:
        ProtocolError: BFL301.
    """
    try:
        raw = bytes.fromhex(public_key)
        if raw.hex() != public_key:
            raise ValueError("not in lower-case hex")
        hpke.check_public_key(raw)
    except ValueError as error:
        raise ProtocolError(
            Code.MALFORMED,
            f"expected a public key ({hpke.KEM_NAMES}) in lower-case hex, got an unusable one: {error}",
        ) from error


def _check_key_commitment(header: Header, data_key: bytes) -> None:
    if not hmac.compare_digest(commit_key(data_key), header.key_commitment):
        raise ProtocolError(Code.KEY_COMMITMENT, "the wrapped data key is not the one that the header commits to")


def _check_wraps(header: Header, data_key: bytes) -> None:
    for one in header.wrapped_keys:
        if not is_wrap_of(header, data_key, one):
            raise _wrap_error()


def _wrap_error() -> ProtocolError:
    return ProtocolError(Code.WRAP_WRONG, "a wrapped key is not the one that the data key gives")


def _wrap(data_key: bytes, place: SealPlace, organisation: str, public_key: str) -> WrappedKey:
    recipient = Recipient(organisation=organisation, public_key=public_key)
    try:
        encapsulation, ciphertext = hpke.encrypt(
            derive_ephemeral_key(data_key, place, recipient),
            bytes.fromhex(public_key),
            _wrap_context(place, organisation, public_key),
            data_key,
        )
    except hpke.HpkeError as error:
        raise ProtocolError(
            Code.HEADER_RECIPIENTS, f"cannot seal to the opening key of {organisation}: {error}"
        ) from error
    return WrappedKey(
        organisation=organisation,
        public_key=public_key,
        encapsulation=encapsulation.hex(),
        ciphertext=ciphertext.hex(),
    )


def _wrap_context(place: SealPlace, organisation: str, public_key: str) -> bytes:
    return _WRAP + _WrapPlace(place=place, organisation=organisation, public_key=public_key).encode()


def _chunk_context(place: SealPlace, index: int, count: int) -> bytes:
    return _CHUNK + _ChunkPlace(place=place, index=index, count=count).encode()


def _nonce(index: int) -> bytes:
    return index.to_bytes(12, "big")
