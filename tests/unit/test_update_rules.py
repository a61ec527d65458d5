"""The table of the rules about judging tells the truth: of every two broken at once, the first one speaks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from blockfl.cli.number import limits_of
from blockfl.protocol.codes import Code
from blockfl.protocol.judging import Judgement, judge_update
from blockfl.protocol.norm_rules import NormRules
from blockfl.protocol.opening import derive_opening
from blockfl.protocol.payload import INT16
from blockfl.protocol.records import Header, WrappedKey
from blockfl.protocol.rule import Rule, find_breach
from blockfl.protocol.rules import JUDGING, NOTHING
from blockfl.protocol.seal import SealPlace, encode_public_key
from blockfl.protocol.value_rules import CHOICES, NORMS, VALUE_RULES, Candidate, ValueRule
from reference import seal as naive
from support.contract import make_scenario, upload_chunk
from support.federation import (
    ALL_NORMS,
    COMMITTEE,
    make_federation,
)
from support.refusals import list_refusals

FEDERATION = make_federation(shape=(62,), weight_cap=4, norms=ALL_NORMS)
assert FEDERATION.round.norms is not None
ROUND = FEDERATION.round.model_copy(
    update={
        "norms": FEDERATION.round.norms.model_copy(
            update={"minimum_cosine_micro": -500_000, "minimum_reference_cosine_micro": -500_000}
        )
    }
)
VALUES = np.arange(FEDERATION.dimension, dtype=np.int16) * np.int16(2)
SEED = bytes(range(32))


@dataclass
class Case:
    """A sealed update, and the round that it is judged by; rules about values are broken by the round's bounds."""

    payload: bytes = VALUES.astype("<i2").tobytes() + SEED
    seed: bytes = SEED
    flipped: int = 0
    header: dict[str, Any] = field(default_factory=dict)
    round_: dict[str, Any] = field(default_factory=dict)
    norms: dict[str, Any] = field(default_factory=dict)
    last_sum: npt.NDArray[np.int32] = field(default_factory=lambda: VALUES.astype(np.int32))
    reference: npt.NDArray[np.int16] = field(default_factory=lambda: VALUES.copy())
    wrong_wrap: int | None = None


def break_length(case: Case) -> None:
    case.header["payload_bytes"] = len(case.payload) + 1


def break_wrap(case: Case) -> None:
    case.wrong_wrap = 2


def break_key_commitment(case: Case) -> None:
    case.header["key_commitment"] = "0" * 64


def break_chunk(case: Case) -> None:
    case.flipped = 1


def break_payload_digest(case: Case) -> None:
    case.header["payload_digest"] = "0" * 64


def break_seed(case: Case) -> None:
    case.seed = bytes(32)


def break_range(case: Case) -> None:
    case.payload = b"\x00\x80" + case.payload[2:]


def break_l2(case: Case) -> None:
    case.round_["bound_l2_squared"] = "0"


def break_linf(case: Case) -> None:
    case.round_["bound_linf"] = 0


def break_tensor(case: Case) -> None:
    assert ROUND.norms is not None
    case.norms["tensors"] = tuple(one.model_copy(update={"l2_squared": "0"}) for one in ROUND.norms.tensors)


def break_least_norm(case: Case) -> None:
    case.norms["minimum_l2_squared"] = "9" * 20


def break_cosine(case: Case) -> None:
    case.last_sum = -case.last_sum


def break_reference_cosine(case: Case) -> None:
    case.reference = -case.reference


def break_commitment(case: Case) -> None:
    case.header["commitment_digest"] = "0" * 64


WAYS: tuple[tuple[Code, Callable[[Case], None]], ...] = (
    (Code.PAYLOAD_FORMAT, break_length),
    (Code.WRAP_WRONG, break_wrap),
    (Code.KEY_COMMITMENT, break_key_commitment),
    (Code.SEAL_BROKEN, break_chunk),
    (Code.PAYLOAD_DIGEST, break_payload_digest),
    (Code.WRAP_WRONG, break_seed),
    (Code.RANGE, break_range),
    (Code.NORM_L2, break_l2),
    (Code.NORM_LINF, break_linf),
    (Code.NORM_TENSOR, break_tensor),
    (Code.NORM_MINIMUM, break_least_norm),
    (Code.COSINE, break_cosine),
    (Code.REFERENCE_COSINE, break_reference_cosine),
    (Code.COMMITMENT, break_commitment),
)


def judge(*ways: Callable[[Case], None]) -> Judgement:
    """Judge an update that breaks rules in these ways, as every member; they must agree."""
    case = Case()
    for way in ways:
        way(case)
    header, chunks = seal(case)
    assert ROUND.norms is not None
    round_ = ROUND.model_copy(update={**case.round_, "norms": ROUND.norms.model_copy(update=case.norms)})
    found = {
        judge_update(
            header, round_, chunks, one, FEDERATION.opening_keys[one], last_sum=case.last_sum, reference=case.reference
        )
        for one in COMMITTEE
    }
    assert len(found) == 1
    return found.pop()


def seal(case: Case) -> tuple[Header, tuple[bytes, ...]]:
    """Seal by the naive reference, which takes everything."""
    honest, _ = FEDERATION.update("alpha", VALUES, SEED)
    place = json.loads(SealPlace.of(honest).encode())
    digest = hashlib.sha256(case.payload).hexdigest()
    key = naive.data_key(case.seed, place, digest)
    chunks = [naive.chunks(key, place, case.payload)[0]]
    chunks[0] = bytes([chunks[0][0] ^ case.flipped]) + chunks[0][1:]
    wraps = [naive.wrap(key, place, one, encode_public_key(FEDERATION.opening_keys[one])) for one in COMMITTEE]
    if case.wrong_wrap is not None:
        wraps[case.wrong_wrap]["ciphertext"] = "00" * 48
    fields = {
        "payload_digest": digest,
        "payload_bytes": len(case.payload),
        "chunk_digests": (hashlib.sha256(chunks[0]).hexdigest(),),
        "wrapped_keys": tuple(WrappedKey.model_validate(wrap) for wrap in wraps),
        "key_commitment": naive.commitment(key),
    }
    return honest.model_copy(update=fields | case.header), tuple(chunks)


def test_the_table_of_judging_has_every_rule_in_the_order_in_which_it_is_broken_here() -> None:
    assert [rule.code for rule in JUDGING] == [Code.CHUNKS_MISSING, *(code for code, _ in WAYS)]


def test_the_table_of_judging_has_every_code_that_a_verdict_can_have() -> None:
    faults = {Code.OPENING_KEY, Code.CHUNK_MISMATCH, Code.NOT_ENROLLED}
    never = {Code.PAYLOAD_FORMAT}  # what was opened has the dtype that commitments are made of
    assert list_refusals(judge_update) - never == faults
    assert not faults & {rule.code for rule in JUDGING}


def test_what_a_verdict_tells_follows_from_the_rule_and_is_no_error_s_text() -> None:
    """Two members must endorse the same bytes, of whatever release each is."""
    reasons = {way.__name__: judge(way).reason for _, way in WAYS}
    expected = {
        "break_tensor": "tensor dense/kernel, bits 19",
        "break_cosine": "tenths -10",
        "break_reference_cosine": "tenths -10",
    }
    assert reasons == dict.fromkeys(reasons, "") | expected


def test_rules_of_one_code_cost_the_same() -> None:
    assert len({(rule.code, rule.penalty) for rule in JUDGING}) == len({rule.code for rule in JUDGING})


def test_every_field_of_a_task_s_norm_rules_is_a_rule_s_or_the_bound_s() -> None:
    assert {one.field for one in CHOICES} | {"tensors", "adaptive"} == set(NormRules.model_fields)


@pytest.mark.parametrize("rule", [one for one in VALUE_RULES if one.chosen_by], ids=lambda rule: rule.code.name)
def test_the_one_number_by_which_a_task_chooses_a_rule_makes_the_committee_reject(rule: ValueRule) -> None:
    """From the task's section to the verdict: nothing else asks for the rule."""
    assert rule.chosen_by is not None
    off: dict[str, Any] = {"tensors": (), "adaptive": None} | {one.field: one.off for one in CHOICES}
    with pytest.raises(ValueError, match="names no rule"):
        NormRules.model_validate(off)
    limits = limits_of(NormRules, rule.chosen_by.field)
    extremes = {int(one * 10**6) for one in (limits.lowest, limits.highest)} - {rule.chosen_by.off}
    assert rule.code in {find_code(off | {rule.chosen_by.field: number}) for number in extremes}


def find_code(given: dict[str, Any]) -> Code | None:
    """Return the code of an update against the last sum and the reference, in a task with these rules about norms."""
    plain, manifest = FEDERATION.round, FEDERATION.task.spec.manifest
    norms = NormRules.model_validate(given).freeze(
        manifest, 10**6, scale=plain.scale, has_last_sum=True, has_referee=True
    )
    round_ = plain.model_copy(update={"norms": norms})
    breach = find_breach(
        VALUE_RULES, Candidate.of(round_, VALUES, weight=3, last_sum=-VALUES.astype(np.int32), reference=-VALUES)
    )
    return breach.rule.code if breach else None


def test_every_rule_about_values_is_explained_to_the_institution() -> None:
    broken = replace(
        Candidate.of(ROUND, VALUES, weight=3, last_sum=-VALUES.astype(np.int32), reference=None),
        bound_l2_squared=0,
        bound_linf=0,
    )
    texts = [rule.explain(broken) for rule in VALUE_RULES]
    assert len(set(texts)) == len(texts)
    assert all(text.endswith(tuple("abcdefghijklmnopqrstuvwxyz'")) and len(text) > 60 for text in texts)


def test_an_update_that_breaks_no_rule_is_accepted() -> None:
    judgement = judge()
    assert (judgement.accepted, judgement.code) == (True, None)
    header, _ = seal(Case())
    values, seed = INT16.decode_payload(Case().payload, FEDERATION.dimension)
    opening = derive_opening(values, seed, SealPlace.of(header), header.payload_digest)
    assert hashlib.sha256(opening.commit()).hexdigest() == header.commitment_digest


@pytest.mark.parametrize("number", range(len(WAYS)), ids=[way.__name__ for _, way in WAYS])
def test_a_verdict_gives_the_first_rule_that_is_broken(number: int) -> None:
    code, way = WAYS[number]
    answers = {"alone": judge(way).code} | {other.__name__: judge(way, other).code for _, other in WAYS[number + 1 :]}
    assert {other: got for other, got in answers.items() if got is not code} == {}


@pytest.mark.parametrize(
    ("rule", "way"),
    [(rule, way) for rule, (_, way) in zip(JUDGING[1:], WAYS, strict=True)],
    ids=[way.__name__ for _, way in WAYS],
)
def test_a_verdict_tells_what_the_table_says_and_no_more(rule: Rule[Any], way: Callable[[Case], None]) -> None:
    judgement = judge(way)
    bits = (judgement.norm_l2_squared_bits, judgement.norm_linf_bits)
    exact = int(np.square(VALUES.astype(np.int64)).sum())
    assert bits == ((exact.bit_length(), int(VALUES.max()).bit_length()) if rule.tells.startswith(NORMS) else (0, 0))
    assert ("tensor" in rule.tells) == ("tensor dense/kernel" in judgement.reason)
    assert ("tenths" in rule.tells) == ("tenths" in judgement.reason)
    assert rule.tells == NOTHING or rule.tells.startswith(NORMS)
    assert str(exact) not in judgement.reason


async def test_chunks_that_never_came_are_the_verdict_whatever_else_is_wrong() -> None:
    scenario, world = await make_scenario()
    await scenario.open()
    header, chunks = await scenario.seal("alpha")
    broken = scenario.sign(header.model_copy(update={"key_commitment": "0" * 64}))
    await world.submit("alpha", "SubmitUpdate", broken.encode())
    before = world.now_ms
    world.now_ms = (await scenario.round()).submit_deadline_ms + 1
    late = await world.endorse("regulator", "JudgeUpdate", "heart", "1", "alpha")
    assert b"BFL409" in late.payload
    world.now_ms = before
    await upload_chunk(world, "alpha", 1, 0, chunks[0])
    assert b"BFL411" in (await world.endorse("regulator", "JudgeUpdate", "heart", "1", "alpha")).payload
