"""A submission: the header that an institution signs, the signature, and what the contract checks about both.

Owns: the signed bytes, the signature's form, the comparison of a header with the round. Refuses high S, other curves,
any byte too many in the DER.

    composed = compose_update(consortium, task, round_, "alpha", values, seed)
    signed = sign_header(composed.header, signer.sign)
    check_header(signed.header, consortium, task, round_)
    verify_header_signature(signed, enrolment.certificate)

Source: ``docs/protocol.md``, signed bytes; FIPS 186-5 (ECDSA); SEC 1 for the curve P-256.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.claims import Equivocation
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.opening import derive_opening
from blockfl.protocol.payload import ENCODINGS, Values
from blockfl.protocol.records import Commitment, Consortium, Header, Participant, Round, SignedHeader, Update
from blockfl.protocol.seal import Sealed, SealPlace, compute_chunk_count, seal
from blockfl.protocol.task import Task, TaskSpec

PREFIX: Final = b"BLOCKFL-UPDATE-V1\0"
_ORDER_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

# What cryptography raises on damaged certificates.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


@dataclass(frozen=True, kw_only=True)
class Composed:
    """An update ready to be signed: its header, what was sealed, and the sealed chunks."""

    header: Header
    payload: bytes
    chunks: tuple[bytes, ...]


def compose_place(consortium: Consortium, round_: Round, organisation: str) -> SealPlace:
    """Return the place of an organisation's update in a round."""
    return SealPlace(
        network=consortium.network,
        channel=consortium.channel,
        contract=consortium.contract,
        task=round_.task,
        round=round_.round,
        organisation=organisation,
    )


def compose_update(
    consortium: Consortium, task: Task, round_: Round, organisation: str, values: Values, seed: bytes
) -> Composed:
    """Seal an update to the round's committee, commit to it where the task wants that, and compose its header.

    Args:
        consortium: who takes part.
        task: the task.
        round_: the open round.
        organisation: whose update it is.
        values: int16, shape (d,).
        seed: 32 random bytes, fresh for every update.

    Raises:
        ProtocolError: BFL204 if the organisation is not part of the round, BFL414 or BFL415 for values that are none.
    """
    place = compose_place(consortium, round_, organisation)
    payload = ENCODINGS[task.spec.encoding].encode_payload(values, seed)
    sealed = seal(payload, seed, place, round_.committee)
    digest = None
    if task.spec.is_committed:
        digest = compute_digest(derive_opening(values, seed, place, sealed.payload_digest).commit())
    header = compose_header(consortium, task, round_, organisation, sealed, digest)
    return Composed(header=header, payload=payload, chunks=sealed.chunks)


def compose_header(
    consortium: Consortium,
    task: Task,
    round_: Round,
    organisation: str,
    sealed: Sealed,
    commitment_digest: str | None,
) -> Header:
    """Return the header of a sealed update.

    Raises:
        ProtocolError: BFL204 if the organisation is not part of the round.
    """
    part = _participant(round_, organisation)
    return Header(
        network=consortium.network,
        channel=consortium.channel,
        contract=consortium.contract,
        task=round_.task,
        round=round_.round,
        organisation=organisation,
        certificate_digest=part.certificate_digest,
        base_digest=round_.base_digest,
        manifest_digest=task.manifest_digest,
        payload_digest=sealed.payload_digest,
        payload_bytes=sealed.payload_bytes,
        chunk_digests=sealed.chunk_digests,
        dimension=task.spec.manifest.dimension,
        samples=part.samples,
        weight=part.weight,
        scale=round_.scale,
        bound_l2_squared=round_.bound_l2_squared,
        encoding=task.spec.encoding,
        wrapped_keys=sealed.wrapped_keys,
        key_commitment=sealed.key_commitment,
        commitment_digest=commitment_digest,
    )


def check_header(header: Header, consortium: Consortium, task: Task, round_: Round) -> None:
    """Check that a header is one for this round.

    Whether the round is open, and whether the caller is ``header.organisation``, is the contract's to check.

    Raises:
        ProtocolError: BFL401, BFL402, BFL209, BFL204, BFL205, BFL403 to BFL406, BFL414 or BFL418, in this order.
    """
    _expect(Code.HEADER_NETWORK, "network", consortium.network, header.network)
    _expect(Code.HEADER_NETWORK, "channel", consortium.channel, header.channel)
    _expect(Code.HEADER_NETWORK, "contract", consortium.contract, header.contract)
    _expect(Code.HEADER_ROUND, "task", round_.task, header.task)
    _expect(Code.HEADER_ROUND, "round", round_.round, header.round)
    part = _participant(round_, header.organisation)
    _expect(Code.CERTIFICATE_MISMATCH, "certificate digest", part.certificate_digest, header.certificate_digest)
    _expect(Code.HEADER_BASE, "base digest", round_.base_digest, header.base_digest)
    _expect(Code.HEADER_MANIFEST, "manifest digest", task.manifest_digest, header.manifest_digest)
    _expect(Code.HEADER_MANIFEST, "dimension", task.spec.manifest.dimension, header.dimension)
    _expect(Code.HEADER_TERMS, "samples", part.samples, header.samples)
    _expect(Code.HEADER_TERMS, "weight", part.weight, header.weight)
    _expect(Code.HEADER_TERMS, "scale", round_.scale, header.scale)
    _expect(Code.HEADER_TERMS, "bound_l2_squared", round_.bound_l2_squared, header.bound_l2_squared)
    recipients = tuple((one.organisation, one.public_key) for one in round_.committee)
    if tuple((one.organisation, one.public_key) for one in header.wrapped_keys) != recipients:
        raise ProtocolError(
            Code.HEADER_RECIPIENTS,
            "expected one wrapped key for the key of each of "
            f"{', '.join(name for name, _ in recipients)} in this order: seal to the round's committee",
        )
    _expect(Code.HEADER_TERMS, "encoding", task.spec.encoding, header.encoding)
    payload_bytes = ENCODINGS[header.encoding].compute_payload_bytes(header.dimension)
    _expect(Code.PAYLOAD_FORMAT, "payload bytes", payload_bytes, header.payload_bytes)
    _expect(Code.PAYLOAD_FORMAT, "number of chunks", compute_chunk_count(payload_bytes), len(header.chunk_digests))
    got = 0 if header.commitment_digest is None else 1
    _expect(Code.COMMITMENT, f"commitments with the check {task.spec.check}", int(task.spec.is_committed), got)


def count_chunks(spec: TaskSpec) -> int:
    """Return how many sealed chunks each update of a task has."""
    return compute_chunk_count(ENCODINGS[spec.encoding].compute_payload_bytes(spec.manifest.dimension))


def signing_bytes(header: Header) -> bytes:
    """Return the bytes that are signed."""
    return PREFIX + header.encode()


def sign_header(header: Header, sign: Callable[[bytes], bytes]) -> SignedHeader:
    """Return the header with its signature.

    Args:
        header: the header.
        sign: ECDSA on P-256 with SHA-256 over the given bytes; returns DER. A high S is replaced by the low one.

    Raises:
        ProtocolError: BFL407 if what ``sign`` returned is no ECDSA signature.
    """
    try:
        r, s = decode_dss_signature(sign(signing_bytes(header)))
        low = encode_dss_signature(r, min(s, _ORDER_P256 - s))
    except ValueError as error:
        raise ProtocolError(
            Code.SIGNATURE, "expected an ECDSA signature in DER from the signer: sign with the P-256 key"
        ) from error
    return SignedHeader(header=header, signature=low.hex())


def verify_header_signature(signed: SignedHeader, certificate: str) -> None:
    """Verify the signature with the enrolled certificate; whether that is still trusted is not looked at.

    Args:
        signed: header and signature.
        certificate: PEM.

    Raises:
        ProtocolError: BFL205 if the certificate is not the one that the header names; BFL407 for anything wrong with
            the signature.
    """
    digest = compute_certificate_digest(certificate)
    _expect(Code.CERTIFICATE_MISMATCH, "certificate digest", digest, signed.header.certificate_digest)
    key = _public_key(certificate)
    raw = bytes.fromhex(signed.signature)
    try:
        # Strict DER: the decoder refuses other encodings and trailing bytes.
        _, s = decode_dss_signature(raw)
        if s > _ORDER_P256 // 2:
            raise ProtocolError(Code.SIGNATURE, "expected the low S, got the high one: sign with low S")
        key.verify(raw, signing_bytes(signed.header), ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError(
            Code.SIGNATURE, f"the signature is not one of {signed.header.organisation}'s certificate over this header"
        ) from error


def compute_certificate_digest(certificate: str) -> str:
    """Return SHA-256 of the DER of the one certificate in a PEM text, whose key is ECDSA on P-256.

    Raises:
        ProtocolError: BFL205 if it holds anything else.
    """
    parsed = _parse_certificate(certificate)
    _public_key(certificate)
    return hashlib.sha256(parsed.public_bytes(Encoding.DER)).hexdigest()


def create_update(header: Header, now_ms: int) -> Update:
    """Return the record of an update that was submitted now."""
    return Update(
        task=header.task,
        round=header.round,
        organisation=header.organisation,
        header_digest=header.record_digest,
        state="submitted",
        code="",
        reason="",
        norm_l2_squared_bits=0,
        norm_linf_bits=0,
        submitted_at_ms=now_ms,
        judged_at_ms=0,
    )


def create_commitment(header: Header) -> Commitment:
    """Return the record that will hold the commitment to an update once that is accepted."""
    return Commitment(task=header.task, round=header.round, organisation=header.organisation, value="")


def create_equivocation(first: Header, second: SignedHeader, now_ms: int) -> Equivocation | None:
    """Return the proof that a second header, whose signature was verified, differs from the first; None if it does not.

    Two signatures of one header are no equivocation: ECDSA gives a new one each time.
    """
    if second.header == first:
        return None
    return Equivocation(
        task=first.task,
        round=first.round,
        organisation=first.organisation,
        first_digest=first.record_digest,
        second=second,
        recorded_at_ms=now_ms,
    )


def _participant(round_: Round, organisation: str) -> Participant:
    part = round_.participant(organisation)
    if organisation in round_.resting:
        raise ProtocolError(
            Code.NOT_CHOSEN,
            f"{organisation} was not chosen for round {round_.round} of {round_.task} and owes nothing: wait for the "
            "next",
        )
    if part is None:
        raise ProtocolError(
            Code.NOT_ENROLLED,
            f"{organisation} is not part of round {round_.round} of {round_.task}: enrol for the next",
        )
    return part


def _expect(code: Code, what: str, expected: int | str, got: int | str) -> None:
    if expected != got:
        raise ProtocolError(code, f"{what}: expected {expected}, got {got}")


def _parse_certificate(certificate: str) -> x509.Certificate:
    try:
        (parsed,) = x509.load_pem_x509_certificates(certificate.encode())
    except _UNREADABLE as error:
        raise ProtocolError(Code.CERTIFICATE_MISMATCH, "expected one X.509 certificate in PEM") from error
    return parsed


def _public_key(certificate: str) -> ec.EllipticCurvePublicKey:
    try:
        key = _parse_certificate(certificate).public_key()
    except _UNREADABLE as error:
        raise ProtocolError(Code.CERTIFICATE_MISMATCH, "the certificate's key cannot be read") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ProtocolError(Code.CERTIFICATE_MISMATCH, "expected a certificate with an ECDSA key on P-256")
    return key
