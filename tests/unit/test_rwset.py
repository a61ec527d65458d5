"""Read/write sets, private sets and the wire format below them."""

from __future__ import annotations

import hashlib

import pytest
from fabric_protos.ledger.rwset import rwset_pb2
from fabric_protos.ledger.rwset.kvrwset import kv_rwset_pb2
from google.protobuf import empty_pb2
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.embedded.endorsing.payload_cache import PayloadCache
from blockfl.fabric.encoding.wire import encode_bytes, encode_integer, encode_prefix, encode_varint, scan_fields
from blockfl.fabric.errors import BlockError
from blockfl.fabric.shim.messages import decode_message
from blockfl.fabric.transaction.rwset import (
    CollectionReadWriteSet,
    HashedMetadataWrite,
    HashedRead,
    HashedWrite,
    MerkleSummary,
    MetadataWrite,
    NamespaceReadWriteSet,
    RangeQuery,
    Read,
    ReadWriteSet,
    Version,
    Write,
    decode_metadata,
    decode_read_write_set,
    encode_metadata,
    hash_key,
)
from support.read_write_sets import (
    PrivateWriteSet,
    decode_private_write_set,
    encode_private_write_set,
    encode_read_write_set,
    hash_private_write_set,
    hash_value,
)

UINT64 = st.integers(0, 2**64 - 1)
KEYS = st.text(max_size=4)
HASHES = st.binary(max_size=4)
VERSIONS = st.none() | st.builds(Version, UINT64, UINT64)
ENTRIES = st.lists(st.tuples(KEYS, st.binary(max_size=3)), max_size=2).map(tuple)
READS = st.lists(st.builds(Read, key=KEYS, version=VERSIONS), max_size=3).map(tuple)
WRITES = st.lists(st.builds(Write, key=KEYS, value=st.binary(max_size=9), is_delete=st.booleans()), max_size=3).map(
    tuple
)
SUMMARIES = st.builds(
    MerkleSummary,
    max_degree=st.integers(0, 2**32 - 1),
    max_level=st.integers(0, 2**32 - 1),
    hashes=st.lists(HASHES, max_size=3).map(tuple),
)
RANGES = st.builds(
    RangeQuery, start_key=KEYS, end_key=KEYS, exhausted=st.booleans(), reads=st.none() | READS
) | st.builds(RangeQuery, start_key=KEYS, end_key=KEYS, exhausted=st.booleans(), summary=SUMMARIES)
COLLECTIONS = st.builds(
    CollectionReadWriteSet,
    collection=KEYS,
    reads=st.lists(st.builds(HashedRead, key_hash=HASHES, version=VERSIONS), max_size=2).map(tuple),
    writes=st.lists(
        st.builds(HashedWrite, key_hash=HASHES, value_hash=HASHES, is_delete=st.booleans(), is_purge=st.booleans()),
        max_size=2,
    ).map(tuple),
    metadata_writes=st.lists(st.builds(HashedMetadataWrite, key_hash=HASHES, entries=ENTRIES), max_size=2).map(tuple),
    private_hash=HASHES,
)
NAMESPACES = st.builds(
    NamespaceReadWriteSet,
    namespace=KEYS,
    reads=READS,
    range_queries=st.lists(RANGES, max_size=2).map(tuple),
    writes=WRITES,
    metadata_writes=st.lists(st.builds(MetadataWrite, key=KEYS, entries=ENTRIES), max_size=2).map(tuple),
    collections=st.lists(COLLECTIONS, max_size=2).map(tuple),
)


@given(
    st.builds(ReadWriteSet, namespaces=st.lists(NAMESPACES, max_size=3).map(tuple), data_model=st.sampled_from([0, 7]))
)
def test_what_is_encoded_is_decoded_to_the_same(readwrites: ReadWriteSet) -> None:
    assert decode_read_write_set(encode_read_write_set(readwrites)) == readwrites


@given(st.builds(PrivateWriteSet, writes=WRITES, metadata_keys=st.lists(KEYS, max_size=2).map(tuple)))
def test_private_sets_spliced_by_hand_equal_those_of_the_protobuf_library(private: PrivateWriteSet) -> None:
    message = kv_rwset_pb2.KVRWSet(
        writes=[kv_rwset_pb2.KVWrite(key=w.key, value=w.value, is_delete=w.is_delete) for w in private.writes],
        metadata_writes=[kv_rwset_pb2.KVMetadataWrite(key=key) for key in private.metadata_keys],
    )
    encoded = encode_private_write_set(private)
    assert encoded == message.SerializeToString()
    assert decode_private_write_set(encoded) == private


def test_private_writes_become_hashes() -> None:
    private = PrivateWriteSet(
        writes=(Write(key="a", value=b"value"), Write(key="b", is_delete=True), Write(key="c", is_delete=True)),
        metadata_keys=("a",),
    )
    entries = (("VALIDATION_PARAMETER", b"policy"),)
    hashed = hash_private_write_set("sealed", private, metadata={"a": entries}, purges=["c"])
    digest = hashlib.sha256(b"a").digest()
    assert hashed.writes == (
        HashedWrite(key_hash=digest, value_hash=hashlib.sha256(b"value").digest()),
        HashedWrite(key_hash=hash_key("b"), is_delete=True),
        HashedWrite(key_hash=hash_key("c"), is_delete=True, is_purge=True),
    )
    assert hashed.metadata_writes == (HashedMetadataWrite(key_hash=digest, entries=entries),)
    assert hashed.private_hash == hashlib.sha256(encode_private_write_set(private)).digest()
    assert hash_private_write_set("sealed", PrivateWriteSet()).private_hash == b""


def test_an_empty_value_deletes_like_the_flag() -> None:
    assert Write(key="k").deletes
    assert Write(key="k", value=b"v", is_delete=True).deletes
    assert not Write(key="k", value=b"v").deletes
    assert HashedWrite(key_hash=b"h").deletes
    assert HashedWrite(key_hash=b"h", value_hash=hash_value(b"")).deletes
    assert HashedWrite(key_hash=b"h", value_hash=b"x", is_delete=True).deletes
    assert not HashedWrite(key_hash=b"h", value_hash=hash_value(b"v")).deletes


def broken_public() -> bytes:
    return bytes(rwset_pb2.TxReadWriteSet(ns_rwset=[rwset_pb2.NsReadWriteSet(rwset=b"\xff")]).SerializeToString())


def broken_hashed() -> bytes:
    collection = rwset_pb2.CollectionHashedReadWriteSet(collection_name="c", hashed_rwset=b"\xff")
    namespace = rwset_pb2.NsReadWriteSet(namespace="n", collection_hashed_rwset=[collection])
    return bytes(rwset_pb2.TxReadWriteSet(ns_rwset=[namespace]).SerializeToString())


@pytest.mark.parametrize("encoded", [b"\xff", broken_public(), broken_hashed(), b"\x12\x03\x0a\x01\xff"])
def test_sets_that_do_not_parse_are_refused(encoded: bytes) -> None:
    with pytest.raises(BlockError, match="expected a read/write set"):
        decode_read_write_set(encoded)


@pytest.mark.parametrize("encoded", [b"\xff", b"\x1a\x05", b"\x1a\x03\x0a\x01\xff", b"\x1b"])
def test_private_sets_that_do_not_parse_are_refused(encoded: bytes) -> None:
    with pytest.raises(BlockError, match="expected a private write set"):
        decode_private_write_set(encoded)


def test_metadata_entries_survive() -> None:
    entries = (("VALIDATION_PARAMETER", b"policy"), ("empty", b""))
    assert decode_metadata(encode_metadata(entries)) == dict(entries)
    assert decode_metadata(b"") == {}
    with pytest.raises(BlockError, match="expected metadata entries"):
        decode_metadata(b"\xff")


@given(UINT64)
def test_varints_are_those_of_protobuf(value: int) -> None:
    message = kv_rwset_pb2.Version(block_num=value)
    assert encode_integer(1, value) == message.SerializeToString()
    if value:
        assert message.SerializeToString() == b"\x08" + encode_varint(value)


@given(st.binary(max_size=300))
def test_length_delimited_fields_are_those_of_protobuf(content: bytes) -> None:
    message = kv_rwset_pb2.KVWrite(value=content)
    assert encode_bytes(3, content) == message.SerializeToString()
    assert encode_prefix(3, len(content)) + content == b"\x1a" + encode_varint(len(content)) + content


@given(st.binary(max_size=40))
def test_scanning_finds_the_fields_that_protobuf_finds_or_refuses(data: bytes) -> None:
    try:
        found = [value if isinstance(value, int) else bytes(value) for _, value in scan_fields(memoryview(data))]
        fields = UnknownFieldSet(empty_pb2.Empty.FromString(data))
    except (ValueError, DecodeError):
        return
    assert found == [field.data for field in fields if field.wire_type not in FIXED]


FIXED = (1, 5)
"""Wire types of 8 and 4 bytes, which nothing that is scanned has."""


@pytest.mark.parametrize(
    "data", [b"\x00", b"\x0b", b"\x0a\x05x", b"\x08", b"\x08" + b"\xff" * 10, b"\x0d\x01", b"\x0a"]
)
def test_scanning_refuses_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        list(scan_fields(memoryview(data)))


def test_scanning_reads_integers_and_bytes_and_passes_over_fields_of_fixed_size() -> None:
    data = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x1d\x01\x02\x03\x04" + b"\x21" + bytes(8)
    found = [
        (number, value if isinstance(value, int) else bytes(value)) for number, value in scan_fields(memoryview(data))
    ]
    assert found == [(1, 150), (2, b"abc")]


def test_a_channel_of_another_wire_type_is_none() -> None:
    """As the official decoder has it: a field of eight bytes is no text, whatever its number."""
    assert decode_message(b"\x08\x01" + b"\x39" + b"channel!").channel == ""


def test_organisations_that_come_to_the_same_private_set_share_it_and_its_digest() -> None:
    cache = PayloadCache()
    small, large = b"small", bytes(1 << 20) + b"large"
    for rwset in (small, large):
        shared = cache.private_set("app", "notes", rwset)
        assert cache.private_set("app", "notes", bytes(bytearray(rwset))) is shared
        assert shared.digest == hashlib.sha256(rwset).digest()
        other = cache.private_set("app", "others", rwset)
        assert (other is shared, other.digest) == (False, shared.digest)
    assert cache.private_set("app", "notes", large[:-1] + b"!").digest == hashlib.sha256(large[:-1] + b"!").digest()
