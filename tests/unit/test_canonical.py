"""Canonical JSON: one byte string per meaning, and nothing else decodes."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from blockfl.protocol.canonical import (
    MAX_INTEGER,
    MAX_RECORD_BYTES,
    MAX_RECORD_NAMES,
    Decimal,
    Digest,
    Hex,
    MspId,
    Name,
    Natural,
    Record,
    compute_digest,
)
from blockfl.protocol.codes import Code, ProtocolError
from reference.canonical import encode_naively
from support.refusal import refused, value_or_code


class Inner(Record):
    label: str
    flag: bool


class Sample(Record):
    name: Name
    count: Natural
    big: Decimal
    digest: Digest
    raw: Hex
    inner: tuple[Inner, ...]
    note: str | None


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SAMPLES = st.builds(
    Sample,
    name=st.from_regex(r"[a-z][a-z0-9-]{0,10}[a-z0-9]", fullmatch=True),
    count=st.integers(0, MAX_INTEGER),
    big=st.integers(0, 10**99).map(str),
    digest=st.binary(min_size=32, max_size=32).map(bytes.hex),
    raw=st.binary(max_size=9).map(bytes.hex),
    inner=st.lists(st.builds(Inner, label=TEXT, flag=st.booleans()), max_size=3).map(tuple),
    note=st.none() | TEXT,
)
GOOD = Sample(
    name="alpha",
    count=7,
    big="18446744073709551616",
    digest="ab" * 32,
    raw="",
    inner=(Inner(label='€ "quoted" \n', flag=True),),
    note=None,
)


@given(SAMPLES)
def test_a_record_survives_encoding(sample: Sample) -> None:
    assert Sample.decode(sample.encode()) == sample


@given(SAMPLES)
def test_the_encoding_is_the_one_of_the_naive_reference(sample: Sample) -> None:
    assert sample.encode() == encode_naively(json.loads(sample.model_dump_json()))


def test_the_record_digest_is_that_of_its_bytes() -> None:
    assert GOOD.record_digest == compute_digest(GOOD.encode())
    assert compute_digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(GOOD.encode())
    return document


def _encoded(**changes: Any) -> bytes:
    return encode_naively(_document() | changes)


REFUSED = {
    "an unknown field": _encoded(extra=1),
    "a missing field": encode_naively({k: v for k, v in _document().items() if k != "note"}),
    "an integer as text": _encoded(count="7"),
    "an integer as float": GOOD.encode().replace(b'"count":7', b'"count":7.0'),
    "an integer with an exponent": GOOD.encode().replace(b'"count":7', b'"count":7e0'),
    "a boolean for an integer": _encoded(count=True),
    "a negative natural": _encoded(count=-1),
    "an integer over 2^53": _encoded(count=MAX_INTEGER + 1),
    "an enormous integer": GOOD.encode().replace(b'"count":7', b'"count":' + b"9" * 10_000),
    "a decimal with a leading zero": _encoded(big="01"),
    "a negative decimal": _encoded(big="-1"),
    "a decimal of a hundred and one digits": _encoded(big="1" * 101),
    "an upper-case digest": _encoded(digest="AB" * 32),
    "a short digest": _encoded(digest="ab" * 31),
    "a digest with a newline": _encoded(digest="ab" * 32 + "\n"),
    "an odd number of hex digits": _encoded(raw="abc"),
    "an upper-case name": _encoded(name="Alpha"),
    "a name with a slash": _encoded(name="alpha/beta"),
    "a name with a newline": _encoded(name="alpha\n"),
    "a name of one letter": _encoded(name="a"),
    "a name of thirty-three letters": _encoded(name="a" * 33),
    "null where text belongs": _encoded(name=None),
    "a list instead of a record": b"[]",
    "white space": GOOD.encode().replace(b",", b", ", 1),
    "a trailing byte": GOOD.encode() + b"\n",
    "a trailing record": GOOD.encode() * 2,
    "a leading byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "another order of fields": json.dumps(dict(reversed(_document().items())), separators=(",", ":")).encode(),
    "a field twice": GOOD.encode().replace(b'"count":7', b'"count":7,"count":7'),
    "an escaped letter": GOOD.encode().replace(b'"alpha"', b'"\\u0061lpha"'),
    "an escaped slash": _encoded(note="/").replace(b'"/"', b'"\\/"'),
    "an escape where UTF-8 belongs": GOOD.encode().replace("€".encode(), b"\\u20ac"),
    "a lone surrogate": _encoded(note="x").replace(b'"x"', b'"\\ud800"'),
    "bytes that are no UTF-8": GOOD.encode().replace("€".encode(), b"\xff"),
    "NaN": GOOD.encode().replace(b'"count":7', b'"count":NaN'),
    "nothing": b"",
    "deep nesting": b"[" * 100_000,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=list(REFUSED))
def test_only_the_canonical_bytes_decode(data: bytes) -> None:
    assert data != GOOD.encode()
    with refused(Code.MALFORMED):
        Sample.decode(data)


def test_the_error_names_the_field() -> None:
    with pytest.raises(ProtocolError, match=r"^BFL301 Sample: inner\.0\.flag: "):
        Sample.decode(_encoded(inner=[{"label": "x", "flag": 1}]))


@given(
    st.binary(max_size=400)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode())
)
@example(b'{"name":"\\ud800"}')
def test_arbitrary_bytes_are_refused_with_the_code(data: bytes) -> None:
    with refused(Code.MALFORMED):
        Sample.decode(data)


@given(st.data())
def test_a_changed_byte_is_refused_or_is_another_record(data: st.DataObject) -> None:
    encoded = bytearray(GOOD.encode())
    position = data.draw(st.integers(0, len(encoded) - 1))
    encoded[position] ^= data.draw(st.integers(1, 255))
    decoded = value_or_code(lambda: Sample.decode(bytes(encoded)))
    if isinstance(decoded, Code):
        assert decoded is Code.MALFORMED
    else:
        assert decoded != GOOD
        assert decoded.encode() == encoded


def test_records_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        GOOD.count = 8  # type: ignore[misc]


class Long(Record):
    """A record that may be of any length."""

    text: str
    parts: tuple[Inner, ...]


def test_a_record_of_the_largest_size_is_read_and_a_larger_one_is_not() -> None:
    empty = len(Long(text="", parts=()).encode())
    largest = Long(text="x" * (MAX_RECORD_BYTES - empty), parts=()).encode()
    assert len(Long.decode(largest).encode()) == MAX_RECORD_BYTES
    with refused(Code.MALFORMED, "at most"):
        Long.decode(largest.replace(b"xx", b"xxx", 1))


def test_a_record_of_the_most_names_is_read_and_one_of_more_is_not() -> None:
    parts = (Inner(label="", flag=True),) * (MAX_RECORD_NAMES // 2 - 1)
    most = Long(text="", parts=parts)
    assert Long.decode(most.encode()) == most
    with refused(Code.MALFORMED, "names"):
        Long.decode(Long(text="", parts=(*parts, parts[0])).encode())


@pytest.mark.parametrize("text", ["Org1MSP", "org_2.example-msp", "hungary", "7B", "a" * 64])
def test_an_organisation_is_named_as_fabric_spells_it(text: str) -> None:
    assert TypeAdapter(MspId).validate_python(text) == text


@pytest.mark.parametrize("text", ["", "a", "a/b", "..", "-a", "a b", "org\n", "a" * 65, "ä1"])
def test_what_no_key_of_a_record_can_hold_is_no_organisation(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(MspId).validate_python(text)
