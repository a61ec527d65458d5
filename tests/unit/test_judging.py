"""Judging: each rule rejects with its code, alike for every member, and tells no exact norm."""

import hashlib
import json
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blockfl.protocol.codes import Code
from blockfl.protocol.judging import Judgement, describe_verdict, judge_update, judge_upload, judge_values, open_update
from blockfl.protocol.norms import compute_norms
from blockfl.protocol.records import Commitment, Header, Round, Update, WrappedKey
from blockfl.protocol.seal import SealPlace, encode_public_key
from blockfl.protocol.submission import create_commitment, create_update
from reference import seal as naive
from reference.norms import judge_naively
from support.federation import COMMITTEE, NOW_MS, make_federation
from support.refusal import code_of, refused

FEDERATION = make_federation(shape=(62,), bound_l2_micro=1_000_000, weight_cap=4)
DIMENSION = FEDERATION.dimension
ROUND = FEDERATION.round
PART = ROUND.participants[2]
BOUND_L2_SQUARED = int(ROUND.bound_l2_squared)
LIMIT_L2 = PART.weight**2 * BOUND_L2_SQUARED
LIMIT_LINF = PART.weight * ROUND.bound_linf
VALUES = np.arange(DIMENSION, dtype=np.int16)
INT16 = hnp.arrays(np.int16, st.integers(1, 30), elements=st.integers(-32768, 32767))


def judge(values: npt.NDArray[np.int16], round_: Round = ROUND) -> Judgement:
    """Judge an update of the third participant as every member; they must agree."""
    header, chunks = FEDERATION.update(PART.organisation, values)
    return agreed(header, chunks, round_)


def agreed(header: Header, chunks: tuple[bytes, ...], round_: Round = ROUND) -> Judgement:
    judgements = [judge_update(header, round_, chunks, one, FEDERATION.opening_keys[one]) for one in COMMITTEE]
    assert judgements[1:] == judgements[:-1]
    return judgements[0]


def values_with(l2_squared: int) -> npt.NDArray[np.int16]:
    """Return values with exactly this Σx², as even as squares allow."""
    values = np.zeros(DIMENSION, dtype=np.int16)
    for index in range(DIMENSION):
        left = DIMENSION - index
        values[index] = isqrt(l2_squared // left if left > 12 else l2_squared)
        l2_squared -= int(values[index]) ** 2
    assert l2_squared == 0
    return values


# --- the norm rule


@given(INT16, st.integers(1, 255), st.integers(0, 2**34), st.integers(0, 40000))
@example(np.array([32767], dtype=np.int16), 1, 2**34, 32767)
@example(np.array([-32768], dtype=np.int16), 1, 2**34, 32768)
@example(np.array([3, 4], dtype=np.int16), 5, 1, 1)
@example(np.array([3, 4, 1], dtype=np.int16), 5, 1, 1)
@example(np.array([3, -5], dtype=np.int16), 4, 100, 1)
def test_the_rule_is_that_of_the_naive_reference(
    values: npt.NDArray[np.int16], weight: int, bound_l2_squared: int, bound_linf: int
) -> None:
    code = code_of(
        lambda: judge_values(
            values, dimension=len(values), weight=weight, bound_l2_squared=bound_l2_squared, bound_linf=bound_linf
        )
    )
    expected = judge_naively(values.tolist(), weight, bound_l2_squared, min(bound_linf, 32767))
    assert (code.identifier if code else None) == expected


@given(INT16)
def test_norms_are_exact(values: npt.NDArray[np.int16]) -> None:
    norms = compute_norms(values)
    assert norms.l2_squared == sum(value**2 for value in values.tolist())
    assert norms.linf == max(abs(value) for value in values.tolist())


@pytest.mark.parametrize("dimension", [2**16 - 1, 2**16, 2**16 + 1, 3 * 2**16 + 5])
@pytest.mark.parametrize("value", [32767, -32767, -32768])
def test_the_largest_norms_are_exact_over_many_blocks(dimension: int, value: int) -> None:
    norms = compute_norms(np.full(dimension, value, dtype=np.int16))
    assert norms.l2_squared == dimension * value**2
    assert norms.linf == abs(value)


def test_both_bounds_are_inclusive_and_grow_with_the_weight() -> None:
    values = np.array([6, 8], dtype=np.int16)
    judge_values(values, dimension=2, weight=2, bound_l2_squared=25, bound_linf=4)
    with refused(Code.NORM_L2):
        judge_values(values, dimension=2, weight=2, bound_l2_squared=24, bound_linf=4)
    with refused(Code.NORM_LINF):
        judge_values(values, dimension=2, weight=2, bound_l2_squared=25, bound_linf=3)
    with refused(Code.NORM_L2):
        judge_values(values, dimension=2, weight=1, bound_l2_squared=25, bound_linf=4)


@pytest.mark.parametrize(
    "values", [np.zeros(3, dtype=np.int16), np.zeros((2, 1), dtype=np.int16), np.zeros(2, dtype=np.int32), np.zeros(2)]
)
def test_other_shapes_and_dtypes_are_refused(values: npt.NDArray[np.int16]) -> None:
    with refused(Code.PAYLOAD_FORMAT, "int16 of shape"):
        judge_values(values, dimension=2, weight=1, bound_l2_squared=1, bound_linf=1)


# --- the verdict


def test_an_update_at_the_bound_is_accepted_by_every_member() -> None:
    values = values_with(LIMIT_L2)
    judgement = judge(values)
    assert judgement == Judgement(
        accepted=True,
        code=None,
        reason="",
        norm_l2_squared_bits=LIMIT_L2.bit_length(),
        norm_linf_bits=int(values.max()).bit_length(),
        commitment=judgement.commitment,
    )
    header, _ = FEDERATION.update(PART.organisation, values)
    assert hashlib.sha256(judgement.commitment).hexdigest() == header.commitment_digest


def test_an_update_with_another_commitment_than_the_signed_one_is_rejected() -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    judgement = agreed(header.model_copy(update={"commitment_digest": "0" * 64}), chunks)
    assert (judgement.accepted, judgement.code, judgement.commitment) == (False, Code.COMMITMENT, b"")
    assert judgement.norm_l2_squared_bits > 0


def test_the_commitment_to_other_values_is_not_accepted() -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    other, _ = FEDERATION.update(PART.organisation, VALUES + np.int16(1))
    judgement = agreed(header.model_copy(update={"commitment_digest": other.commitment_digest}), chunks)
    assert judgement.code is Code.COMMITMENT


def test_nothing_is_committed_to_where_the_committee_recomputes() -> None:
    recomputing = make_federation(check="recompute")
    header, chunks = recomputing.update("alpha", np.zeros(recomputing.dimension, dtype=np.int16))
    key = recomputing.opening_keys["regulator"]
    judgement = judge_update(header, recomputing.round, chunks, "regulator", key)
    assert (judgement.accepted, judgement.commitment) == (True, b"")


def test_the_commitment_of_an_accepted_update_is_written_into_its_record() -> None:
    header, _ = FEDERATION.update(PART.organisation, VALUES)
    judgement = judge(VALUES)
    record = judgement.fill(create_commitment(header))
    assert Commitment.decode(record.encode()) == record
    assert (record.task, record.round, record.organisation) == (header.task, header.round, header.organisation)
    assert record.content == judgement.commitment
    assert create_commitment(header).content == b""


def test_one_more_than_the_l2_bound_is_rejected() -> None:
    judgement = judge(values_with(LIMIT_L2 + 1))
    assert (judgement.accepted, judgement.code) == (False, Code.NORM_L2)
    assert judgement.norm_l2_squared_bits == (LIMIT_L2 + 1).bit_length()


def test_the_bound_of_another_weight_does_not_count() -> None:
    other = ROUND.participants[0]
    assert other.weight > PART.weight
    header, chunks = FEDERATION.update(other.organisation, values_with(LIMIT_L2 + 1))
    assert agreed(header, chunks).accepted


def test_weight_and_bounds_are_the_round_s_whatever_the_header_says() -> None:
    header, chunks = FEDERATION.update(PART.organisation, values_with(LIMIT_L2 + 1))
    lying = header.model_copy(update={"weight": 255, "bound_l2_squared": "9" * 20})
    assert agreed(lying, chunks).code is Code.NORM_L2


def test_one_more_than_the_linf_bound_is_rejected() -> None:
    narrow = ROUND.model_copy(update={"bound_linf": 10})
    values = np.zeros(DIMENSION, dtype=np.int16)
    values[5] = -10 * PART.weight
    assert judge(values, narrow).accepted
    values[5] -= 1
    judgement = judge(values, narrow)
    assert (judgement.accepted, judgement.code) == (False, Code.NORM_LINF)


def test_no_linf_bound_reaches_beyond_int16() -> None:
    wide = ROUND.model_copy(update={"bound_linf": 32768, "bound_l2_squared": "9" * 20})
    assert judge(np.full(DIMENSION, -32767, dtype=np.int16), wide).accepted


def dishonest_update(payload: bytes, **changes: Any) -> tuple[Header, tuple[bytes, ...]]:
    """Seal any payload rightly, and announce it in the header."""
    header, _ = FEDERATION.update(PART.organisation, VALUES)
    place = json.loads(SealPlace.of(header).encode())
    digest = hashlib.sha256(payload).hexdigest()
    key = naive.data_key(payload[-32:], place, digest)
    chunks = tuple(naive.chunks(key, place, payload))
    wraps = [naive.wrap(key, place, one, encode_public_key(FEDERATION.opening_keys[one])) for one in COMMITTEE]
    return header.model_copy(
        update={
            "payload_digest": digest,
            "payload_bytes": len(payload),
            "chunk_digests": tuple(hashlib.sha256(chunk).hexdigest() for chunk in chunks),
            "wrapped_keys": tuple(WrappedKey.model_validate(wrap) for wrap in wraps),
            "key_commitment": naive.commitment(key),
        }
        | changes
    ), chunks


def test_the_value_without_a_negative_is_rejected() -> None:
    payload = b"\x00\x80" + bytes(2 * DIMENSION - 2) + bytes(32)
    judgement = agreed(*dishonest_update(payload))
    assert (judgement.accepted, judgement.code) == (False, Code.RANGE)


@pytest.mark.parametrize("surplus", [-2, -1, 1, 2, -2 * DIMENSION])
def test_a_payload_of_another_length_is_rejected(surplus: int) -> None:
    judgement = agreed(*dishonest_update(bytes(2 * DIMENSION + 32 + surplus)))
    assert (judgement.accepted, judgement.code) == (False, Code.PAYLOAD_FORMAT)


def test_a_broken_seal_is_a_verdict_too() -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    broken = (chunks[0][:-1] + bytes([chunks[0][-1] ^ 1]),)
    digests = (hashlib.sha256(broken[0]).hexdigest(),)
    judgement = agreed(header.model_copy(update={"chunk_digests": digests}), broken)
    assert (judgement.accepted, judgement.code, judgement.norm_l2_squared_bits) == (False, Code.SEAL_BROKEN, 0)


@pytest.mark.parametrize("victim", range(3))
def test_a_wrong_wrap_is_one_verdict_whoever_it_was_made_for(victim: int) -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    wraps = list(header.wrapped_keys)
    wraps[victim] = wraps[victim].model_copy(update={"ciphertext": "00" * 48})
    judgement = agreed(header.model_copy(update={"wrapped_keys": tuple(wraps)}), chunks)
    assert (judgement.accepted, judgement.code) == (False, Code.WRAP_WRONG)


@given(st.data())
def test_whatever_one_byte_of_the_sealed_bytes_is_changed_to_all_reject_alike(data: st.DataObject) -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    raw = bytearray(chunks[0])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    digests = (hashlib.sha256(raw).hexdigest(),)
    judgement = agreed(header.model_copy(update={"chunk_digests": digests}), (bytes(raw),))
    assert judgement.code is Code.SEAL_BROKEN


def test_texts_and_numbers_tell_only_the_size_of_a_norm() -> None:
    """The exact norm of a one-element tensor is its value."""
    judgements = {judge(values_with(LIMIT_L2 + surplus)) for surplus in (1, 2, 1000)}
    assert len(judgements) == 1
    assert all(one.code is Code.NORM_L2 for one in judgements)


MISSING = judge_upload([True, False])


def test_missing_chunks_are_a_verdict() -> None:
    assert judge_upload([True, True]) is None
    judgement = MISSING
    assert judgement is not None
    assert (judgement.accepted, judgement.code) == (False, Code.CHUNKS_MISSING)


# --- what is no verdict


def test_a_member_without_the_round_s_key_raises_instead_of_judging() -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    with refused(Code.OPENING_KEY):
        judge_update(header, ROUND, chunks, "regulator", X25519PrivateKey.from_private_bytes(b"z" * 32))


def test_chunks_other_than_the_announced_raise_instead_of_judging() -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    with refused(Code.CHUNK_MISMATCH):
        judge_update(header, ROUND, (chunks[0] + b"\0",), "regulator", FEDERATION.opening_keys["regulator"])


@pytest.mark.parametrize("changes", [{"organisation": "omega"}, {"round": 2}, {"task": "lungs"}])
def test_a_header_of_another_round_raises_instead_of_judging(changes: dict[str, Any]) -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    with refused(Code.NOT_ENROLLED):
        judge_update(
            header.model_copy(update=changes), ROUND, chunks, "regulator", FEDERATION.opening_keys["regulator"]
        )


# --- the record


def test_a_verdict_is_written_into_the_update() -> None:
    header, _ = FEDERATION.update(PART.organisation, VALUES)
    submitted = create_update(header, NOW_MS)
    accepted = judge(VALUES).apply(submitted, NOW_MS + 5)
    assert (accepted.state, accepted.code, accepted.judged_at_ms) == ("accepted", "", NOW_MS + 5)
    rejected = judge(values_with(LIMIT_L2 + 1)).apply(submitted, NOW_MS + 5)
    assert (rejected.state, rejected.code) == ("rejected", "BFL416")
    assert describe_verdict(rejected) == (
        f"rejected: BFL416 {Code.NORM_L2.meaning} (Σx² {rejected.norm_l2_squared_bits} bits, "
        f"max abs(x) {rejected.norm_linf_bits} bits)"
    )
    for record in (accepted, rejected):
        assert Update.decode(record.encode()) == record
        assert (record.header_digest, record.submitted_at_ms) == (submitted.header_digest, NOW_MS)
        assert record.norm_l2_squared_bits > 0


def test_a_verdict_of_another_version_of_the_rules_is_told_as_it_is() -> None:
    update = create_update(FEDERATION.update(PART.organisation, VALUES)[0], NOW_MS)
    later = update.model_copy(update={"state": "rejected", "code": "BFL499", "reason": "bits 3"})
    assert describe_verdict(later) == "rejected BFL499 bits 3"


def test_a_judged_update_keeps_its_verdict() -> None:
    header, _ = FEDERATION.update(PART.organisation, VALUES)
    accepted = judge(VALUES).apply(create_update(header, NOW_MS), NOW_MS + 5)
    assert MISSING is not None
    assert MISSING.apply(accepted, NOW_MS + 9) == accepted


def test_every_reason_fits_into_the_record() -> None:
    header, _ = FEDERATION.update(PART.organisation, VALUES)
    submitted = create_update(header, NOW_MS)
    for judgement in (MISSING, judge(values_with(LIMIT_L2 + 1)), agreed(*dishonest_update(bytes(40)))):
        assert judgement is not None
        record = judgement.apply(submitted, NOW_MS)
        assert Update.decode(record.encode()) == record


def test_the_values_of_an_accepted_update_are_opened_for_the_sum() -> None:
    header, chunks = FEDERATION.update(PART.organisation, VALUES)
    for member in COMMITTEE:
        opened = open_update(header, chunks, member, FEDERATION.opening_keys[member])
        np.testing.assert_array_equal(opened.values, VALUES)
        assert hashlib.sha256(opened.commit()).hexdigest() == header.commitment_digest
