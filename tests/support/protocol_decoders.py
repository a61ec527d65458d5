"""Decoders of the protocol and of the contract's arguments."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from blockfl.contract import argument
from blockfl.protocol.blob import join_blob, split_blob
from blockfl.protocol.canonical import Record, compute_digest
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.commitment import add_commitments, compute_commitment, expand_randomness
from blockfl.protocol.dispute import choose_ephemeral_key, claim_wrap, settle_claim
from blockfl.protocol.evidence import Evidence, verify_round_sum
from blockfl.protocol.hpke import HpkeError, decrypt, decrypt_as_sender, derive_key, encrypt
from blockfl.protocol.judging import Judgement, judge_update, open_update
from blockfl.protocol.model import decode_manifest, decode_model, encode_model
from blockfl.protocol.opening import derive_opening
from blockfl.protocol.optimiser import Adam
from blockfl.protocol.payload import INT16, SEED_BYTES
from blockfl.protocol.records import Blob, Commitment, Header, SignedHeader
from blockfl.protocol.scoring import decode_values
from blockfl.protocol.seal import (
    SealPlace,
    check_public_key,
    decode_opening_key,
    encode_public_key,
    unwrap_data_key,
)
from blockfl.protocol.submission import compute_certificate_digest, verify_header_signature
from blockfl.protocol.sums import Sum, decode_randomness, decode_sum, encode_sum
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.version import apply_step, decode_version, encode_version
from support.decoders import Decoder
from support.federation import INSTITUTIONS, Federation, make_federation
from support.vectors import Document, list_record_kinds, read_vectors

REFUSES = (ProtocolError,)
SEED = bytes(range(32))
ADAM = Adam(method="adam", learning_rate_micro=10_000, beta1_micro=900_000, beta2_micro=990_000, tau_micro=1000)


@cache
def federation() -> Federation:
    return make_federation()


@cache
def before_one_member() -> Federation:
    """A round without commitments that is sealed to the regulator only: a fifth of the work."""
    told = make_federation(check="recompute")
    committee = tuple(one for one in told.round.committee if one.organisation == "regulator")
    return replace(told, round=told.round.model_copy(update={"committee": committee}))


@cache
def update() -> tuple[Header, tuple[bytes, ...]]:
    return federation().update("alpha", np.arange(federation().dimension, dtype=np.int16), SEED)


def decode_record(kind: type[Record], content: bytes) -> None:
    record = kind.decode(content)
    assert record.encode() == content
    assert kind.decode(record.encode()) == record


def record_seeds(name: str) -> Sequence[bytes]:
    return tuple(case["given"]["text"].encode() for case in record_vectors() if case["given"]["record"] == name)


def record_vectors() -> list[Document]:
    return [*read_vectors("records"), *read_vectors("credits")]


def blob_seeds() -> Sequence[bytes]:
    return tuple(split_blob(bytes(size))[0].encode() for size in (1, 4 << 20, (4 << 20) + 1))


def list_record_decoders() -> list[Decoder]:
    names = dict.fromkeys(case["given"]["record"] for case in record_vectors())
    kinds: list[tuple[str, Callable[[], Sequence[bytes]]]] = [("Blob", blob_seeds)]
    kinds += [(name, partial(record_seeds, name)) for name in names]
    return [
        Decoder(
            name=f"record {name}",
            decode=partial(decode_record, list_record_kinds()[name]),
            refuses=REFUSES,
            seeds=cache(seeds),
            form="json",
        )
        for name, seeds in kinds
    ]


def payload(content: bytes) -> None:
    dimension = max(1, (len(content) - SEED_BYTES) // 2)
    values, seed = INT16.decode_payload(content, dimension)
    assert INT16.encode_payload(values, seed) == content


def payload_seeds() -> Sequence[bytes]:
    return tuple(
        INT16.encode_payload(np.array(one, dtype=np.int16), SEED) for one in ([0], [-32767, 32767, -1], list(range(64)))
    )


def total(content: bytes) -> None:
    values = decode_sum(content, dimension=max(1, len(content) // 4), count=3)
    assert int(abs(values.astype(np.int64)).max()) <= 3 * 32767
    assert encode_sum(values) == content


def total_seeds() -> Sequence[bytes]:
    return tuple(np.array(one, dtype="<i4").tobytes() for one in ([0], [-98301, 98301], list(range(99))))


def commitment(content: bytes) -> None:
    assert add_commitments([content]) == content


@cache
def commitment_seeds() -> Sequence[bytes]:
    return (
        compute_commitment(np.arange(9, dtype=np.int16), expand_randomness(SEED)),
        bytes(8192),
        (2**60 - 1).to_bytes(8, "little") * 1024,
    )


@cache
def evidence() -> tuple[tuple[Evidence, ...], bytes]:
    """Evidence of three updates of 14 values, and their committed sum."""
    found, added = [], Sum(14, committed=True)
    for name in INSTITUTIONS[:3]:
        values = np.arange(14, dtype=np.int16)
        header, _ = federation().update(name, values, SEED)
        opening = derive_opening(values, SEED, SealPlace.of(header), header.payload_digest)
        added.add(values, opening.randomness)
        value = b64encode(opening.commit()).decode()
        record = Commitment(task="heart", round=1, organisation=name, value=value)
        found.append(Evidence(header=header, commitment=record))
    return tuple(found), added.encode()


def committed_sum(content: bytes) -> None:
    verify_round_sum(content, 14, evidence()[0])
    assert content == evidence()[1]
    decode_randomness(content, 14)


def model_file(content: bytes) -> None:
    manifest = federation().task.spec.manifest
    assert encode_model(manifest, decode_model(manifest, content)) == content


def model_of_any_manifest(content: bytes) -> None:
    manifest = decode_manifest(content)
    assert encode_model(manifest, decode_model(manifest, content)) == content


def model_seeds() -> Sequence[bytes]:
    return federation().initial_model, *(bytes.fromhex(case["gives"]["file"]) for case in read_vectors("models"))


@cache
def blob() -> tuple[Blob, bytes]:
    content = bytes(range(200))
    return split_blob(content)[0], content


def blob_content(content: bytes) -> None:
    assert join_blob(blob()[0], [content]) == blob()[1]


def sealed_chunk(content: bytes) -> None:
    """The chunk as it was announced: only the seal itself can refuse it."""
    header, chunks = update()
    header = header.model_copy(update={"chunk_digests": (compute_digest(content),)})
    key = federation().opening_keys["regulator"]
    open_update(header, [content], "regulator", key)
    assert content == chunks[0]


def sealed_header(content: bytes) -> None:
    """Any header: a verdict, or a refusal, and never acceptance of another update."""
    signed = SignedHeader.decode(content)
    verdict = judge_update(
        signed.header, federation().round, update()[1], "university", federation().opening_keys["university"]
    )
    assert isinstance(verdict, Judgement)
    assert not verdict.accepted or signed.header.payload_digest == update()[0].payload_digest


def judged_payload(content: bytes) -> None:
    """Any payload, sealed honestly for a committee of one and signed for what it is."""
    values = np.frombuffer(content[: len(content) // 2 * 2], dtype="<i2").astype(np.int16)
    wanted = federation().dimension
    values = np.resize(values, wanted) if values.size else np.zeros(wanted, dtype=np.int16)
    values[values == -32768] = -32767
    alone = before_one_member()
    header, chunks = alone.update("alpha", values, SEED)
    verdict = judge_update(header, alone.round, chunks, "regulator", alone.opening_keys["regulator"])
    part = alone.round.participant("alpha")
    assert part is not None
    exact = sum(int(value) ** 2 for value in values)
    fits = exact <= part.weight**2 * int(alone.round.bound_l2_squared)
    largest = int(abs(values.astype(np.int64)).max())
    assert verdict.accepted == (fits and largest <= min(32767, part.weight * alone.round.bound_linf))


def hpke_message(content: bytes) -> None:
    opened = decrypt(content[:32], content[32:], derive_key(SEED), b"info")
    assert b"".join(hpke_sealed()) == content
    assert opened == b"secret"


@cache
def hpke_sealed() -> tuple[bytes, bytes]:
    return encrypt(derive_key(bytes(32)), derive_key(SEED).public_key().public_bytes_raw(), b"info", b"secret")


def hpke_as_sender(content: bytes) -> None:
    """The recipient's key and the ciphertext, opened with the key that encrypted."""
    opened = decrypt_as_sender(derive_key(bytes(32)), content[:32], content[32:], b"info")
    assert content == hpke_sent()
    assert opened == b"secret"


@cache
def hpke_sent() -> bytes:
    return derive_key(SEED).public_key().public_bytes_raw() + hpke_sealed()[1]


def shown_key(content: bytes) -> None:
    """A key shown about an honest update refutes the claim, and is that of one of its wraps."""
    header = update()[0]
    settled = settle_claim(claim_wrap(header, "university", 1), header, content, "regulator", 2)
    assert (settled.state, settled.settled_by) == ("refuted", "regulator")
    public = encode_public_key(X25519PrivateKey.from_private_bytes(content))
    assert public in [one.encapsulation for one in header.wrapped_keys]


@cache
def shown_keys() -> Sequence[bytes]:
    header = update()[0]
    data_key = unwrap_data_key(header, "regulator", federation().opening_keys["regulator"])
    shown = [choose_ephemeral_key(header, data_key, one.organisation, "regulator") for one in header.wrapped_keys]
    assert len(set(shown)) == len(shown)
    return *shown, bytes(32)


def disputed_header(content: bytes) -> None:
    """Any header, with the key that is right for the honest one: upheld only where a wrap, or its place, is another."""
    header = SignedHeader.decode(content).header
    settled = settle_claim(claim_wrap(header, "university", 1), header, shown_keys()[0], "regulator", 2)
    honest = update()[0]
    assert settled.state in ("refuted", "upheld")
    assert settled.state == "upheld" or header.wrapped_keys[0] in honest.wrapped_keys
    same = (header.wrapped_keys, SealPlace.of(header)) == (honest.wrapped_keys, SealPlace.of(honest))
    assert not same or settled.state == "refuted"


@cache
def strict_spec() -> TaskSpec:
    return federation().task.spec.model_copy(update={"optimiser": ADAM})


def model_version(content: bytes) -> None:
    found = decode_version(strict_spec(), content)
    assert set(found.state) in (set(), set(ADAM.state))
    assert encode_version(strict_spec(), found) == content


@cache
def model_versions() -> Sequence[bytes]:
    first = decode_version(strict_spec(), federation().initial_model)
    total = np.arange(federation().dimension, dtype=np.int32)
    return federation().initial_model, encode_version(
        strict_spec(), apply_step(ADAM, first, total, scale=10, divisor=3)
    )


def values_of_a_sum(content: bytes) -> None:
    found = decode_values(content, 9)
    assert found.shape == (9,)
    assert content.startswith(found.astype("<i4").tobytes())


def randomness_of_a_sum(content: bytes) -> None:
    found = decode_randomness(content, 14)
    assert found.shape == (4, 1024)
    assert content.endswith(found.astype("<i4").tobytes())


def header_signature(content: bytes) -> None:
    signed = SignedHeader.decode(content)
    verify_header_signature(signed, federation().certificates["alpha"])
    assert signed.header in [SignedHeader.decode(one).header for one in signed_seeds()]


@cache
def signed_seeds() -> Sequence[bytes]:
    return federation().sign(update()[0]).encode(), *record_seeds("SignedHeader")


def certificate(content: bytes) -> None:
    assert len(compute_certificate_digest(content.decode("utf-8", "replace"))) == 64


def opening_key(content: bytes) -> None:
    key = decode_opening_key(content.decode("ascii", "replace"))
    assert len(encode_public_key(key)) == 64


def public_key(content: bytes) -> None:
    check_public_key(content.decode("utf-8", "replace"))


def key_seeds() -> Sequence[bytes]:
    low_order = ("00" * 32, "01" + "00" * 31, "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")
    return *(one.public_key.encode() for one in federation().keys), *(one.encode() for one in low_order)


def code(content: bytes) -> None:
    found = Code.of(content.decode("utf-8", "replace"))
    assert found is None or found.identifier.encode() in content


def word(decode: Callable[[bytes], Any], content: bytes) -> None:
    assert str(decode(content)).encode() == content


WORDS: tuple[tuple[str, Callable[[bytes], Any], tuple[bytes, ...]], ...] = (
    ("name", argument.decode_name, (b"heart", b"a-9", b"hospital-north-of-the-river-1234")),
    ("digest", argument.decode_digest, (b"ab" * 32, b"0" * 64)),
    ("public key", argument.decode_public_key, (b"ab" * 32, b"0" * 64)),
    ("number", argument.decode_number, (b"0", b"1", b"999999", b"1000000", b"01")),
    ("count", argument.decode_count, (b"1", b"9007199254740991", b"9007199254740992", b"0")),
    ("amount", argument.decode_amount, (b"1", b"9007199254740991", b"-1", b"0" * 40)),
)

DECODERS: tuple[Decoder, ...] = (
    *list_record_decoders(),
    *(
        Decoder(
            name=f"argument {name}",
            decode=partial(word, decode),
            refuses=REFUSES,
            seeds=partial(tuple, seeds),
            form="text",
            max_bytes=256,
        )
        for name, decode, seeds in WORDS
    ),
    Decoder(name="payload", decode=payload, refuses=REFUSES, seeds=cache(payload_seeds), max_bytes=512),
    Decoder(name="sum", decode=total, refuses=REFUSES, seeds=cache(total_seeds), max_bytes=512),
    Decoder(name="commitment", decode=commitment, refuses=REFUSES, seeds=commitment_seeds, max_bytes=8200),
    Decoder(
        name="committed sum",
        decode=committed_sum,
        refuses=REFUSES,
        seeds=lambda: (evidence()[1],),
        max_bytes=16448,
    ),
    Decoder(name="model file", decode=model_file, refuses=REFUSES, seeds=cache(model_seeds), max_bytes=1024),
    Decoder(
        name="model file of any manifest",
        decode=model_of_any_manifest,
        refuses=REFUSES,
        seeds=cache(model_seeds),
        max_bytes=1024,
    ),
    Decoder(name="blob", decode=blob_content, refuses=REFUSES, seeds=lambda: (blob()[1],), max_bytes=256),
    Decoder(name="sealed chunk", decode=sealed_chunk, refuses=REFUSES, seeds=lambda: update()[1], max_bytes=512),
    Decoder(name="sealed header", decode=sealed_header, refuses=REFUSES, seeds=signed_seeds, form="json"),
    Decoder(name="judged payload", decode=judged_payload, refuses=REFUSES, seeds=cache(payload_seeds), max_bytes=256),
    Decoder(
        name="hpke", decode=hpke_message, refuses=(HpkeError,), seeds=lambda: (b"".join(hpke_sealed()),), max_bytes=128
    ),
    Decoder(
        name="hpke as its sender",
        decode=hpke_as_sender,
        refuses=(HpkeError,),
        seeds=lambda: (hpke_sent(),),
        max_bytes=128,
    ),
    Decoder(name="dispute: shown key", decode=shown_key, refuses=REFUSES, seeds=shown_keys, max_bytes=64),
    Decoder(name="dispute: header", decode=disputed_header, refuses=REFUSES, seeds=signed_seeds, form="json"),
    Decoder(
        name="model version with its state", decode=model_version, refuses=REFUSES, seeds=model_versions, max_bytes=1024
    ),
    Decoder(
        name="values of a sum",
        decode=values_of_a_sum,
        refuses=REFUSES,
        seeds=lambda: (np.arange(9, dtype="<i4").tobytes(), bytes(64)),
        max_bytes=128,
    ),
    Decoder(
        name="randomness of a sum",
        decode=randomness_of_a_sum,
        refuses=REFUSES,
        seeds=lambda: (evidence()[1],),
        max_bytes=16448,
    ),
    Decoder(name="signature", decode=header_signature, refuses=REFUSES, seeds=signed_seeds, form="json"),
    Decoder(
        name="certificate of an institution",
        decode=certificate,
        refuses=REFUSES,
        seeds=lambda: tuple(one.encode() for one in federation().certificates.values()),
        form="text",
        max_bytes=2048,
    ),
    Decoder(
        name="opening key", decode=opening_key, refuses=REFUSES, seeds=cache(key_seeds), form="text", max_bytes=256
    ),
    Decoder(
        name="public opening key",
        decode=public_key,
        refuses=REFUSES,
        seeds=cache(key_seeds),
        form="text",
        max_bytes=256,
    ),
    Decoder(
        name="code",
        decode=code,
        refuses=(),
        seeds=lambda: (b"BFL416 the norm", b"alpha: BFL104 round 7"),
        form="text",
        max_bytes=256,
    ),
)
