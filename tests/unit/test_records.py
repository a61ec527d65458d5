"""The records of the ledger: what each refuses beyond the types of its fields."""

import json
from base64 import b64decode, b64encode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockfl.protocol import catalogue
from blockfl.protocol.canonical import Record
from blockfl.protocol.claims import Equivocation
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.manifest import MAX_DIMENSION, Manifest
from blockfl.protocol.records import (
    CHUNK_BYTES,
    Aggregate,
    Blob,
    Commitment,
    Consortium,
    Header,
    Model,
    SignedHeader,
    Update,
)
from blockfl.protocol.task import TaskSpec
from reference.canonical import encode_naively
from support.federation import make_consortium, make_federation
from support.record_examples import make_examples
from support.refusal import refuse, refused, value_or_code
from support.vectors import list_record_kinds

EXAMPLES = make_examples(make_federation())


@pytest.mark.parametrize("record", EXAMPLES.values(), ids=list(EXAMPLES))
def test_every_record_survives_encoding(record: Record) -> None:
    assert type(record).decode(record.encode()) == record
    assert record.encode() == encode_naively(json.loads(record.encode()))


@pytest.mark.parametrize("record", EXAMPLES.values(), ids=list(EXAMPLES))
def test_every_field_of_every_record_is_needed(record: Record) -> None:
    document = json.loads(record.encode())
    # Without these, a task moves no credits, averages plainly, has one norm rule, no referee, no rows that measure
    # effect, no columns, no personal layers, no goal and no stable set, and ends with its last round; a model has
    # weights only.
    absent = {
        "economics",
        "effect",
        "ended",
        "evaluators",
        "goal",
        "norms",
        "optimiser",
        "personal",
        "referee",
        "resting",
        "selection",
        "stable_set",
        "statistics",
        "table",
        "tallies",
    }
    for name in document.keys() - absent:
        with refused(Code.MALFORMED):
            type(record).decode(encode_naively({key: value for key, value in document.items() if key != name}))


@pytest.mark.parametrize("record", EXAMPLES.values(), ids=list(EXAMPLES))
def test_no_field_of_any_record_takes_a_float(record: Record) -> None:
    document = json.loads(record.encode())
    for name, value in document.items():
        text = encode_naively(document | {name: "@"}).replace(b'"@"', b"1.5")
        with refused(Code.MALFORMED):
            type(record).decode(text)
        if type(value) is int:
            with refused(Code.MALFORMED):
                type(record).decode(encode_naively(document | {name: 2**53}))


@settings(max_examples=300)
@given(st.sampled_from(list(EXAMPLES.values())), st.data())
def test_a_damaged_record_never_raises_anything_but_the_code(record: Record, data: st.DataObject) -> None:
    encoded = bytearray(record.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(encoded) - 1))
        encoded[position : position + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    decoded = value_or_code(lambda: type(record).decode(bytes(encoded)))
    if isinstance(decoded, Code):
        assert decoded is Code.MALFORMED
    else:
        assert decoded.encode() == encoded


def test_no_organisation_is_called_as_the_treasury() -> None:
    members = json.loads(make_consortium().encode())["members"]
    taken = [*members[:-1], members[-1] | {"organisation": "treasury"}]
    assert [one["organisation"] for one in taken] == sorted(one["organisation"] for one in taken)
    refuse(Consortium, "the MSP id treasury: it is the account that belongs to none", make_consortium(), members=taken)


def test_a_consortium_lists_its_members_in_ascending_order() -> None:
    document = json.loads(make_consortium().encode())
    refuse(Consortium, "ascending", make_consortium(), members=document["members"][::-1])
    refuse(Consortium, "ascending", make_consortium(), members=[document["members"][0], *document["members"]])


@pytest.mark.parametrize(("committee", "threshold", "good"), [
    (3, 2, True), (3, 3, True), (3, 1, False), (3, 4, False), (2, 2, True), (2, 1, False), (1, 1, False), (4, 2, False),
    (4, 3, True), (5, 2, False), (5, 3, True),
])  # fmt: skip
def test_a_threshold_is_a_majority_of_at_least_two(committee: int, threshold: int, good: bool) -> None:
    document = json.loads(make_consortium().encode())
    names = sorted(member["organisation"] for member in document["members"])
    chosen = ["coordinator", *(name for name in names if name != "coordinator")][:committee]
    document["members"] = [
        {"organisation": name, "roles": [*(["committee"] if name in chosen else []),
                                         *(["coordinator"] if name == "coordinator" else [])]}
        for name in names
    ]  # fmt: skip
    document["threshold"] = threshold
    if good:
        assert Consortium.decode(encode_naively(document)).threshold == threshold
    else:
        with pytest.raises(ProtocolError, match="threshold"):
            Consortium.decode(encode_naively(document))


def test_a_consortium_has_exactly_one_coordinator() -> None:
    members = json.loads(make_consortium().encode())["members"]
    two = [member | {"roles": ["committee", "coordinator"]} if member["organisation"] == "regulator" else member
           for member in members]  # fmt: skip
    none = [
        member | {"roles": ["committee"]} if member["organisation"] == "coordinator" else member for member in members
    ]
    refuse(Consortium, "exactly one", make_consortium(), members=two)
    refuse(Consortium, "exactly one", make_consortium(), members=none)


def test_roles_ascend() -> None:
    members = json.loads(make_consortium().encode())["members"]
    turned = [member | {"roles": member["roles"][::-1]} for member in members]
    refuse(Consortium, "roles", make_consortium(), members=turned)


def test_roles_are_found_by_name() -> None:
    consortium = make_consortium()
    assert consortium.committee == ("coordinator", "regulator", "university")
    assert consortium.having("institution") == ("alpha", "beta", "delta", "gamma")
    assert consortium.having("coordinator") == ("coordinator",)


def test_a_manifest_has_no_gaps_and_no_name_twice() -> None:
    spec = EXAMPLES["spec"]
    assert isinstance(spec, TaskSpec)
    kernel, bias = json.loads(spec.manifest.encode())["tensors"]
    refuse(Manifest, "offset", spec.manifest, tensors=[kernel, bias | {"offset": 13}])
    refuse(Manifest, "offset", spec.manifest, tensors=[bias, kernel])
    refuse(Manifest, "differ", spec.manifest, tensors=[kernel, bias | {"name": kernel["name"]}])
    refuse(Manifest, "", spec.manifest, tensors=[])
    refuse(Manifest, "float32", spec.manifest, tensors=[kernel | {"dtype": "float64"}, bias])
    refuse(Manifest, "shape", spec.manifest, tensors=[kernel | {"shape": [3, 4, 0]}, bias])
    refuse(Manifest, "__metadata__", spec.manifest, tensors=[kernel | {"name": "__metadata__"}, bias])


def test_a_manifest_is_not_larger_than_the_largest_dimension() -> None:
    spec = EXAMPLES["spec"]
    assert isinstance(spec, TaskSpec)
    tensor = {"name": "weights", "dtype": "float32", "shape": [MAX_DIMENSION], "offset": 0}
    assert Manifest.decode(encode_naively({"tensors": [tensor]})).dimension == MAX_DIMENSION
    refuse(Manifest, "dimension", spec.manifest, tensors=[tensor | {"shape": [MAX_DIMENSION + 1]}])
    refuse(Manifest, "dimension", spec.manifest, tensors=[tensor | {"shape": [2**53 - 1] * 8}])


def test_a_scalar_tensor_has_one_element() -> None:
    scalar = {"name": "temperature", "dtype": "float32", "shape": [], "offset": 0}
    assert Manifest.decode(encode_naively({"tensors": [scalar]})).dimension == 1


def test_a_blob_has_as_many_chunks_as_its_size_needs() -> None:
    digest = "0" * 64
    blob = Blob(digest=digest, size_bytes=CHUNK_BYTES, chunks=(digest,))
    refuse(Blob, "chunks", blob, size_bytes=CHUNK_BYTES + 1)
    refuse(Blob, "chunks", blob, chunks=[digest] * 2)
    refuse(Blob, "", blob, chunks=[])
    refuse(Blob, "", blob, size_bytes=0)


def test_a_commitment_is_8_kib_in_the_one_base64_or_nothing_yet() -> None:
    empty = EXAMPLES["commitment"]
    whole = b64encode(bytes(range(256)) * 32).decode()
    filled = Commitment.decode(encode_naively(json.loads(empty.encode()) | {"value": whole}))
    assert filled.content == bytes(range(256)) * 32
    refuse(Commitment, "value", empty, value=b64encode(bytes(8191)).decode())
    refuse(Commitment, "value", empty, value=b64encode(bytes(8193)).decode())
    refuse(Commitment, "value", empty, value=whole.replace("+", "-").replace("/", "_"))
    # 8192 bytes leave four bits in the last letter: the next letter of the alphabet decodes to the same bytes.
    other = whole[:-2] + chr(ord(whole[-2]) + 1) + "="
    assert b64decode(other) == filled.content
    refuse(Commitment, "canonical base64", empty, value=other)


def test_wrapped_keys_and_signatures_have_their_lengths() -> None:
    header = EXAMPLES["header"]
    wrapped = json.loads(header.encode())["wrapped_keys"]
    refuse(Header, "encapsulation", header, wrapped_keys=[wrapped[0] | {"encapsulation": "00" * 31}])
    refuse(Header, "ciphertext", header, wrapped_keys=[wrapped[0] | {"ciphertext": "00" * 47}])
    refuse(Header, "wrapped_keys", header, wrapped_keys=[])
    refuse(Header, "chunk_digests", header, chunk_digests=[])
    refuse(SignedHeader, "signature", EXAMPLES["signed header"], signature="00" * 7)


def test_an_update_carries_only_codes_of_verdicts() -> None:
    update = EXAMPLES["update"]
    refuse(Update, "code", update, code="BFL104")
    refuse(Update, "code", update, code="BFL416 over the bound")
    refuse(Update, "state", update, state="lost")


def test_a_participant_is_found_by_name() -> None:
    federation = make_federation()
    part = federation.round.participant("beta")
    assert part is not None
    assert part.organisation == "beta"
    assert federation.round.participant("omega") is None


def test_optional_parts_are_written_as_null() -> None:
    assert b'"sum":null' in EXAMPLES["aggregate"].encode()
    assert b'"base_digest":null' in EXAMPLES["model"].encode()
    assert isinstance(EXAMPLES["aggregate"], Aggregate)
    assert isinstance(EXAMPLES["model"], Model)
    assert isinstance(EXAMPLES["equivocation"], Equivocation)


def test_keys_ascend_with_their_numbers() -> None:
    keys = [catalogue.ROUND.key("heart", number) for number in (1, 2, 9, 10, 99_999, 100_000)]
    assert keys == sorted(keys)
    rounds = catalogue.ROUNDS.below("heart")
    assert all(rounds.start <= key < rounds.end for key in keys)
    assert not rounds.start <= catalogue.ROUND.key("heart-two", 1) < rounds.end
    assert not rounds.start <= catalogue.ROUND.key("hear", 1) < rounds.end


def test_no_two_kinds_of_record_share_a_key() -> None:
    prefixes = [one.prefix for one in catalogue.RECORDS.values()]
    assert len(set(prefixes)) == len(prefixes)
    assert catalogue.sealed_chunk_key("heart", 1, "alpha", 2) == "chunk/heart/000001/alpha/000002"
    assert catalogue.model_chunk_key("heart", "00") == "chunk/heart/00"


def test_every_record_class_is_covered_by_an_example() -> None:
    modules = {"blockfl.protocol.records", "blockfl.protocol.task", "blockfl.protocol.manifest"}
    kinds = {kind for kind in list_record_kinds().values() if kind.__module__ in modules}
    seen: set[type] = set()

    def visit(value: object) -> None:
        if isinstance(value, Record):
            seen.add(type(value))
            for name in type(value).model_fields:
                visit(getattr(value, name))
        elif isinstance(value, tuple):
            for one in value:
                visit(one)

    for example in EXAMPLES.values():
        visit(example)
    assert kinds - seen == set()
