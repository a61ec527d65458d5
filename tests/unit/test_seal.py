"""Sealing: opens for each member, hides from everybody else, and whatever is wrong is found by all alike."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol.codes import Code
from blockfl.protocol.dispute import choose_ephemeral_key, is_wrap_right
from blockfl.protocol.hpke import KEMS, Kem, KemPrivateKey
from blockfl.protocol.judging import judge_update
from blockfl.protocol.payload import INT16
from blockfl.protocol.records import CHUNK_BYTES, CommitteeKey, Header, Recipient, Round
from blockfl.protocol.rule import require
from blockfl.protocol.rules import SEAL_RULES, Envelope
from blockfl.protocol.seal import (
    PLAIN_CHUNK_BYTES,
    SealPlace,
    check_public_key,
    compute_chunk_bytes,
    compute_chunk_count,
    decode_opening_key,
    derive_data_key,
    derive_ephemeral_key,
    encode_public_key,
    seal,
    unwrap_data_key,
    verify_wraps,
)
from blockfl.protocol.submission import compose_update
from reference import seal as naive
from support.federation import COMMITTEE, make_federation
from support.refusal import code_of, refused

FEDERATION = make_federation()
SEED = bytes(range(32))
VALUES = np.arange(-7, 7, dtype=np.int16)
PAYLOAD = INT16.encode_payload(VALUES, SEED)
HEADER, CHUNKS = FEDERATION.update("alpha", VALUES, SEED)
PLACE = SealPlace.of(HEADER)
NAIVE_PLACE: dict[str, Any] = json.loads(PLACE.encode())


def open_as(
    member: str, header: Header = HEADER, chunks: Iterable[bytes] = CHUNKS, key: X25519PrivateKey | None = None
) -> bytearray:
    """Return the payload, whatever values it holds."""
    envelope = Envelope(header, chunks, member, key or FEDERATION.opening_keys[member])
    require([rule for rule in SEAL_RULES if rule.code is not Code.RANGE], envelope)
    assert envelope.payload is not None
    return envelope.payload


def codes(header: Header, chunks: tuple[bytes, ...] = CHUNKS) -> list[Code | None]:
    """Return what each member of the committee answers."""
    return [code_of(lambda member=member: open_as(member, header, chunks)) for member in COMMITTEE]  # type: ignore[misc]


def changed(header: Header = HEADER, /, **changes: Any) -> Header:
    return header.model_copy(update=changes)


def with_chunks(chunks: tuple[bytes, ...], header: Header = HEADER) -> Header:
    return changed(header, chunk_digests=tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks))


def with_wraps(wraps: Mapping[str, dict[str, str]], header: Header = HEADER) -> Header:
    """Return the header with other wrapped keys for some members."""
    document = json.loads(header.encode())
    document["wrapped_keys"] = [wraps.get(one["organisation"], one) for one in document["wrapped_keys"]]
    return Header.model_validate_json(json.dumps(document))


def public_key(member: str) -> str:
    return encode_public_key(FEDERATION.opening_keys[member])


# --- what is right


@pytest.mark.parametrize("member", COMMITTEE)
def test_each_member_opens_the_update(member: str) -> None:
    assert open_as(member) == PAYLOAD


def test_sealing_is_that_of_the_naive_reference() -> None:
    sealed = FEDERATION.seal("alpha", VALUES, SEED)
    key = naive.data_key(SEED, NAIVE_PLACE, hashlib.sha256(PAYLOAD).hexdigest())
    assert list(sealed.chunks) == naive.chunks(key, NAIVE_PLACE, PAYLOAD)
    assert sealed.key_commitment == naive.commitment(key)
    assert sealed.payload_digest == hashlib.sha256(PAYLOAD).hexdigest()
    assert [one.model_dump() for one in sealed.wrapped_keys] == [
        naive.wrap(key, NAIVE_PLACE, member, public_key(member)) for member in COMMITTEE
    ]


@pytest.mark.parametrize("surplus", [-2, 0, 2])
def test_payloads_around_a_chunk_s_size_survive(surplus: int) -> None:
    size = PLAIN_CHUNK_BYTES + surplus
    federation = make_federation(shape=((size - 32) // 2 - 2,))
    values = np.arange((size - 32) // 2).astype(np.int16)
    values[values == -32768] = 0
    header, chunks = federation.update("beta", values, SEED)
    assert len(chunks) == compute_chunk_count(size) == (2 if surplus > 0 else 1)
    assert [len(chunk) for chunk in chunks] == [compute_chunk_bytes(size, index) for index in range(len(chunks))]
    assert max(len(chunk) for chunk in chunks) <= CHUNK_BYTES
    payload = INT16.encode_payload(values, SEED)
    assert open_as("university", header, iter(chunks), federation.opening_keys["university"]) == payload
    place = json.loads(SealPlace.of(header).encode())
    assert list(chunks) == naive.chunks(naive.data_key(SEED, place, header.payload_digest), place, payload)


def test_sealing_again_gives_the_same_bytes() -> None:
    assert FEDERATION.seal("alpha", VALUES, SEED) == FEDERATION.seal("alpha", VALUES, SEED)


def test_no_key_serves_two_payloads_even_with_one_seed() -> None:
    """A repeated seed must not become a repeated key and nonce."""
    other = FEDERATION.seal("alpha", VALUES + np.int16(1), SEED)
    assert other.key_commitment != HEADER.key_commitment
    assert {one.encapsulation for one in other.wrapped_keys}.isdisjoint(
        one.encapsulation for one in HEADER.wrapped_keys
    )


def test_each_member_has_an_ephemeral_key_of_its_own() -> None:
    assert len({one.encapsulation for one in HEADER.wrapped_keys}) == len(COMMITTEE)


def test_the_same_payload_elsewhere_has_other_keys() -> None:
    for name, value in {"round": 2, "task": "lungs", "organisation": "beta", "network": "other", "channel": "other",
                        "contract": "other"}.items():  # fmt: skip
        other = seal(PAYLOAD, SEED, PLACE.model_copy(update={name: value}), FEDERATION.round.committee)
        assert other.key_commitment != HEADER.key_commitment


def test_nothing_public_contains_the_seed_or_the_values() -> None:
    public = HEADER.encode() + b"".join(CHUNKS)
    for secret in (SEED, SEED[:8], VALUES.tobytes()[:8]):
        assert secret not in public
        assert secret.hex().encode() not in public


def test_a_disclosed_ephemeral_key_opens_this_wrap_and_no_other() -> None:
    data_key = derive_data_key(SEED, PLACE, HEADER.payload_digest)
    keys = {one.encapsulation: one.organisation for one in HEADER.wrapped_keys}
    for member in COMMITTEE:
        recipient = Recipient(organisation=member, public_key=public_key(member))
        ephemeral = derive_ephemeral_key(data_key, PLACE, recipient)
        assert keys[ephemeral.public_key().public_bytes_raw().hex()] == member


# --- what is wrong, and found by every member alike


def break_tag(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def wrap_for_all(key: bytes, place: dict[str, Any] = NAIVE_PLACE) -> dict[str, dict[str, str]]:
    """Wrap a data key for every member as the rules say."""
    return {one: naive.wrap(key, place, one, public_key(one)) for one in COMMITTEE}


def resealed(payload: bytes, *, seed: bytes | None = None, **changes: Any) -> tuple[Header, tuple[bytes, ...]]:
    """Seal any bytes consistently, as one who departs from the rules would."""
    digest = changes.pop("payload_digest", hashlib.sha256(payload).hexdigest())
    key = naive.data_key(payload[-32:] if seed is None else seed, NAIVE_PLACE, digest)
    chunks = tuple(naive.chunks(key, NAIVE_PLACE, payload))
    header = with_chunks(chunks, with_wraps(wrap_for_all(key)))
    return changed(header, payload_digest=digest, key_commitment=naive.commitment(key), **changes), chunks


BROKEN_CHUNK = (break_tag(CHUNKS[0]),)
DATA_KEY = naive.data_key(SEED, NAIVE_PLACE, HEADER.payload_digest)


def test_the_kit_of_the_dishonest_seals_rightly_when_it_changes_nothing() -> None:
    assert resealed(PAYLOAD) == (HEADER, CHUNKS)


def test_a_broken_tag_is_a_broken_seal() -> None:
    assert codes(with_chunks(BROKEN_CHUNK), BROKEN_CHUNK) == [Code.SEAL_BROKEN] * 3


@pytest.mark.parametrize("size", [0, 1, 16, len(CHUNKS[0]) - 1, len(CHUNKS[0]) + 1])
def test_a_chunk_of_another_length_is_a_broken_seal(size: int) -> None:
    chunks = ((CHUNKS[0] + b"\0")[:size],)
    assert codes(with_chunks(chunks), chunks) == [Code.SEAL_BROKEN] * 3


def test_another_number_of_chunks_is_a_broken_seal() -> None:
    chunks = (CHUNKS[0], CHUNKS[0])
    assert codes(with_chunks(chunks), chunks) == [Code.SEAL_BROKEN] * 3


def test_fewer_chunks_do_not_leave_the_rest_of_the_payload_to_chance() -> None:
    """Sealed rightly but for the number of chunks: the rest would be zeros, seed included."""
    payload_bytes = 2 * (PLAIN_CHUNK_BYTES // 2) + 32
    payload = bytes(payload_bytes)
    key = naive.data_key(bytes(32), NAIVE_PLACE, hashlib.sha256(payload).hexdigest())
    chunks = tuple(naive.chunks(key, NAIVE_PLACE, payload[:PLAIN_CHUNK_BYTES]))
    header = changed(
        with_chunks(chunks, with_wraps(wrap_for_all(key))),
        payload_digest=hashlib.sha256(payload).hexdigest(),
        payload_bytes=payload_bytes,
        dimension=PLAIN_CHUNK_BYTES // 2,
        key_commitment=naive.commitment(key),
    )
    assert codes(header, chunks) == [Code.SEAL_BROKEN] * 3


@pytest.mark.parametrize("size", [32, len(PAYLOAD) - 2, len(PAYLOAD) + 2])
def test_a_chunk_that_opens_to_another_length_is_a_broken_seal(size: int) -> None:
    payload = bytes(size)
    header, chunks = resealed(payload)
    assert codes(changed(header, payload_bytes=len(PAYLOAD)), chunks) == [Code.SEAL_BROKEN] * 3


@pytest.mark.parametrize("name", list(SealPlace.model_fields))
def test_chunks_and_wraps_of_another_place_do_not_open(name: str) -> None:
    moved = HEADER.model_copy(update={name: 2 if name == "round" else "other"})
    assert codes(moved) == [Code.WRAP_WRONG] * 3
    rewrapped = json.loads(SealPlace.of(moved).encode())
    moved = with_wraps(wrap_for_all(DATA_KEY, rewrapped), moved)
    assert codes(moved) == [Code.SEAL_BROKEN] * 3


def test_swapped_chunks_do_not_open() -> None:
    federation = make_federation(shape=(PLAIN_CHUNK_BYTES - 16 - 2,))
    values = np.zeros(federation.dimension, dtype=np.int16)
    header, chunks = federation.update("alpha", values, SEED)
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES]
    swapped = with_chunks(chunks[::-1], header)
    with refused(Code.SEAL_BROKEN):
        open_as("regulator", swapped, chunks[::-1], federation.opening_keys["regulator"])


@pytest.mark.parametrize("victim", COMMITTEE)
@pytest.mark.parametrize(
    "wrong",
    [
        lambda one: naive.wrap(b"k" * 32, NAIVE_PLACE, one, public_key(one)),
        lambda one: naive.wrap(DATA_KEY, NAIVE_PLACE, one, public_key(one), b"other ephemeral key of 32 bytes!"),
        lambda one: naive.wrap(DATA_KEY, NAIVE_PLACE | {"round": 2}, one, public_key(one)),
        lambda one: naive.wrap(DATA_KEY, NAIVE_PLACE, one, public_key(one)) | {"ciphertext": "00" * 48},
        lambda one: naive.wrap(DATA_KEY, NAIVE_PLACE, one, public_key(one)) | {"encapsulation": "00" * 32},
    ],
    ids=["another data key", "another ephemeral key", "another place", "no ciphertext", "a point of low order"],
)
def test_a_wrong_wrap_for_one_member_is_found_by_all_with_one_code(
    victim: str, wrong: Callable[[str], dict[str, str]]
) -> None:
    header = with_wraps({victim: wrong(victim)})
    assert codes(header) == [Code.WRAP_WRONG] * 3


def test_a_wrong_wrap_counts_before_whatever_only_some_could_see() -> None:
    """The chunk is broken too, and so is the commitment: the member without the data key can know neither."""
    wrap = naive.wrap(b"k" * 32, NAIVE_PLACE, "regulator", public_key("regulator"))
    header = changed(with_chunks(BROKEN_CHUNK, with_wraps({"regulator": wrap})), key_commitment="0" * 64)
    assert codes(header, BROKEN_CHUNK) == [Code.WRAP_WRONG] * 3


def test_a_wrap_with_the_high_bit_set_is_wrong_for_all() -> None:
    """X25519 ignores that bit; the encapsulation is another nevertheless."""
    one = naive.wrap(DATA_KEY, NAIVE_PLACE, "regulator", public_key("regulator"))
    raw = bytearray.fromhex(one["encapsulation"])
    raw[31] |= 0x80
    assert codes(with_wraps({"regulator": one | {"encapsulation": raw.hex()}})) == [Code.WRAP_WRONG] * 3


def test_a_data_key_that_is_not_the_committed_one_is_found_by_all() -> None:
    assert codes(changed(key_commitment="0" * 64)) == [Code.KEY_COMMITMENT] * 3


def test_consistent_wraps_of_a_key_that_does_not_open_the_chunks_are_a_broken_seal() -> None:
    foreign = with_wraps(wrap_for_all(b"k" * 32))
    assert codes(foreign) == [Code.KEY_COMMITMENT] * 3
    assert codes(changed(foreign, key_commitment=naive.commitment(b"k" * 32))) == [Code.SEAL_BROKEN] * 3


def test_a_payload_other_than_the_signed_one_is_found_by_all() -> None:
    header, chunks = resealed(PAYLOAD, payload_digest="0" * 64)
    assert codes(header, chunks) == [Code.PAYLOAD_DIGEST] * 3


def test_a_data_key_that_does_not_follow_from_the_seed_is_found_by_all() -> None:
    header, chunks = resealed(PAYLOAD, seed=b"y" * 32)
    assert codes(header, chunks) == [Code.WRAP_WRONG] * 3


def test_a_payload_of_another_length_than_the_dimension_gives_is_found_before_opening() -> None:
    assert codes(changed(payload_bytes=HEADER.payload_bytes + 2)) == [Code.PAYLOAD_FORMAT] * 3
    assert codes(changed(payload_bytes=2**50)) == [Code.PAYLOAD_FORMAT] * 3


WRAPS = st.sampled_from(["right", "other key", "other ephemeral", "garbage"])


@given(
    st.tuples(WRAPS, WRAPS, WRAPS),
    st.sampled_from([HEADER.key_commitment, naive.commitment(b"k" * 32), "0" * 64]),
    st.booleans(),
    st.sampled_from([HEADER.payload_digest, "0" * 64]),
)
def test_whatever_is_wrong_at_once_all_members_answer_the_same(
    wraps: tuple[str, ...], commitment: str, broken: bool, payload_digest: str
) -> None:
    kinds: dict[str, Callable[[str], dict[str, str]]] = {
        "right": lambda one: naive.wrap(DATA_KEY, NAIVE_PLACE, one, public_key(one)),
        "other key": lambda one: naive.wrap(b"k" * 32, NAIVE_PLACE, one, public_key(one)),
        "other ephemeral": lambda one: naive.wrap(DATA_KEY, NAIVE_PLACE, one, public_key(one), b"e" * 32),
        "garbage": lambda one: {"organisation": one, "public_key": public_key(one), "encapsulation": "11" * 32,
                                "ciphertext": "22" * 48},
    }  # fmt: skip
    chunks = BROKEN_CHUNK if broken else CHUNKS
    header = with_wraps({one: kinds[kind](one) for one, kind in zip(COMMITTEE, wraps, strict=True)})
    header = changed(with_chunks(chunks, header), key_commitment=commitment, payload_digest=payload_digest)
    answers = codes(header, chunks)
    assert len(set(answers)) == 1
    right = set(wraps) == {"right"} and header == HEADER
    assert (answers[0] is None) == right


# --- what is the member's own fault: an error, never a verdict


def test_a_member_with_another_key_than_the_round_s_cannot_judge() -> None:
    with refused(Code.OPENING_KEY, "another key of regulator"):
        open_as("regulator", key=X25519PrivateKey.from_private_bytes(b"z" * 32))


def test_who_is_no_recipient_cannot_open() -> None:
    with refused(Code.OPENING_KEY, "not sealed to alpha"):
        open_as("alpha", key=FEDERATION.opening_keys["regulator"])


def test_other_chunks_than_the_announced_are_no_verdict() -> None:
    for chunks in ((), BROKEN_CHUNK, (*CHUNKS, b"more")):
        assert codes(HEADER, chunks) == [Code.CHUNK_MISMATCH] * 3


def test_other_chunks_than_the_announced_are_no_verdict_even_behind_a_broken_one() -> None:
    federation = make_federation(shape=(PLAIN_CHUNK_BYTES,))
    header, chunks = federation.update("alpha", np.zeros(federation.dimension, dtype=np.int16), SEED)
    broken = (break_tag(chunks[0]), *chunks[1:])
    header = with_chunks(broken, header)
    with refused(Code.CHUNK_MISMATCH, "chunk 2"):
        open_as("regulator", header, (*broken[:2], b""), federation.opening_keys["regulator"])


# --- what the sender and an auditor check


def test_the_sender_s_own_wraps_verify_with_the_seed() -> None:
    verify_wraps(HEADER, SEED)


def test_wraps_do_not_verify_with_another_seed_or_commitment() -> None:
    with refused(Code.WRAP_WRONG):
        verify_wraps(HEADER, b"x" * 32)
    with refused(Code.WRAP_WRONG):
        verify_wraps(with_wraps({"regulator": wrap_for_all(b"k" * 32)["regulator"]}), SEED)
    with refused(Code.KEY_COMMITMENT):
        verify_wraps(changed(key_commitment="0" * 64), SEED)


def test_the_unwrapped_key_is_the_one_of_the_seed() -> None:
    key = unwrap_data_key(HEADER, "coordinator", FEDERATION.opening_keys["coordinator"])
    assert key == derive_data_key(SEED, PLACE, HEADER.payload_digest) == DATA_KEY


def test_sealing_refuses_what_could_not_be_opened() -> None:
    committee = FEDERATION.round.committee
    with refused(Code.PAYLOAD_FORMAT, "ends with its seed"):
        seal(PAYLOAD, b"x" * 32, PLACE, committee)
    with refused(Code.PAYLOAD_FORMAT, "32 bytes"):
        seal(PAYLOAD, SEED[1:], PLACE, committee)
    with refused(Code.HEADER_RECIPIENTS, "at least one"):
        seal(PAYLOAD, SEED, PLACE, ())
    with refused(Code.HEADER_RECIPIENTS, "low order"):
        seal(PAYLOAD, SEED, PLACE, (Recipient(organisation="regulator", public_key="00" * 32),))


def test_opening_keys_are_read_from_hex() -> None:
    key = FEDERATION.opening_keys["regulator"]
    assert decode_opening_key(key.private_bytes_raw().hex() + "\n").private_bytes_raw() == key.private_bytes_raw()


@given(st.text() | st.binary(max_size=40).map(bytes.hex))
def test_anything_else_is_no_opening_key(text: str) -> None:
    if code_of(lambda: decode_opening_key(text)) is None:
        assert len(bytes.fromhex(text.strip())) == 32
    else:
        with refused(Code.MALFORMED):
            decode_opening_key(text)


def test_a_refused_opening_key_is_not_shown() -> None:
    with pytest.raises(Exception, match="64 hex digits") as caught:
        decode_opening_key("5ec2e7" * 3)
    assert "5ec2e7" not in str(caught.value)


@pytest.mark.parametrize("kem", KEMS, ids=lambda kem: kem.name)
def test_a_member_may_have_an_opening_key_of_any_kind(kem: Kem) -> None:
    regulators = decode_opening_key(kem.derive(b"k" * 32).private_bytes_raw().hex())
    keys: dict[str, KemPrivateKey] = {**FEDERATION.opening_keys, "regulator": regulators}
    committee = []
    for one in COMMITTEE:
        check_public_key(encode_public_key(keys[one]))
        registered = CommitteeKey(organisation=one, public_key=encode_public_key(keys[one]), registered_at_ms=1)
        committee.append(Recipient(organisation=one, public_key=registered.public_key))
    round_ = Round.decode(FEDERATION.round.model_copy(update={"committee": tuple(committee)}).encode())
    composed = compose_update(FEDERATION.consortium, FEDERATION.task, round_, "alpha", VALUES, SEED)
    header = Header.decode(composed.header.encode())
    assert all(judge_update(header, round_, composed.chunks, one, keys[one]).accepted for one in COMMITTEE)
    data_key = unwrap_data_key(header, "regulator", keys["regulator"])
    assert is_wrap_right(header, "regulator", choose_ephemeral_key(header, data_key, "regulator", "university"))


def test_public_keys_are_checked_before_they_are_registered() -> None:
    check_public_key(public_key("regulator"))
    for bad in ("", "00" * 31, "00" * 32, "01" + "00" * 31, public_key("regulator").upper(), "zz" * 32,
                " " + public_key("regulator")):  # fmt: skip
        with refused(Code.MALFORMED, "X25519"):
            check_public_key(bad)
