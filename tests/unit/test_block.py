"""Blocks: hashes, links and ordering nodes' signatures; each fixture breaks one check."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from fabric_protos.common import common_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.channel.block import (
    bft_quorum,
    build_block,
    compute_commit_hash,
    data_hash,
    decode_block,
    decode_metadata,
    encode_block,
    encode_last_config,
    header_bytes,
    header_hash,
    set_commit,
    sign_block,
    verify_block,
    verify_block_signatures,
    verify_commit,
    verify_data,
    verify_genesis,
    verify_link,
)
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.transaction.code import code_name
from support.organisation import channel_spec, make_organisation
from support.scratch_ledger import NAMES, genesis, genesis_config, organisations, scratch_ledger

ENVELOPES = (b"\x0a\x01a\x12\x01b", b"\x0a\x01c\x12\x01d")
PREVIOUS = b"p" * 32


def consenter(number: int) -> Signer:
    return organisations()[NAMES[number - 1]].signer(f"orderer{number}", "orderer")


def bft_block(signers: Sequence[int] = (1, 2, 3), *, last_config: int = 0, data: Sequence[bytes] = ENVELOPES) -> Any:
    block = build_block(7, PREVIOUS, data)
    sign_block(block, [consenter(n) for n in signers], last_config=last_config, identifiers=signers)
    return block


def check(block: Any, config: ChannelConfig | None = None) -> None:
    verify_block(block, config or genesis_config(), previous_hash=PREVIOUS, number=7)


def change_signatures(block: Any, change: Callable[[Any], None]) -> Any:
    message = common_pb2.Metadata.FromString(block.metadata.metadata[0])
    change(message)
    block.metadata.metadata[0] = message.SerializeToString()
    return block


@given(st.integers(0, 2**64 - 1), st.binary(max_size=200), st.binary(max_size=200))
def test_header_bytes_are_the_der_of_number_and_hashes(number: int, previous: bytes, data: bytes) -> None:
    header = common_pb2.BlockHeader(number=number, previous_hash=previous, data_hash=data)
    content = integer(number) + octets(previous) + octets(data)
    assert header_bytes(header) == der(0x30, content)
    assert header_hash(header) == hashlib.sha256(header_bytes(header)).digest()


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_library_reads_the_same_integers_from_the_der_as_written_by_us(first: int, second: int) -> None:
    assert decode_dss_signature(der(0x30, integer(first) + integer(second))) == (first, second)


def integer(value: int) -> bytes:
    digits = b"" if value else b"\0"
    while value:
        digits = bytes([value & 0xFF]) + digits
        value >>= 8
    return der(0x02, (b"\0" if digits[0] & 0x80 else b"") + digits)


def octets(content: bytes) -> bytes:
    return der(0x04, content)


def der(tag: int, content: bytes) -> bytes:
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    size = bytes([len(content)]) if len(content) < 256 else bytes(divmod(len(content), 256))
    return bytes([tag, 0x80 + len(size)]) + size + content


def test_the_data_hash_is_that_of_the_envelopes_one_after_the_other() -> None:
    assert data_hash([b"one", b"two"]) == hashlib.sha256(b"onetwo").digest()


@pytest.mark.parametrize("nodes", range(1, 60))
def test_two_quorums_share_an_honest_node_and_honest_nodes_are_a_quorum(nodes: int) -> None:
    faulty = (nodes - 1) // 3
    quorum = bft_quorum(nodes)
    assert quorum == math.ceil((nodes + faulty + 1) / 2)
    assert 2 * quorum - nodes > faulty
    assert quorum <= nodes - faulty


@pytest.mark.parametrize("signers", [(1, 2, 3), (4, 2, 1), (1, 2, 3, 4)])
def test_a_quorum_of_consenters_signs_a_block(signers: tuple[int, ...]) -> None:
    check(bft_block(signers))


def break_signature(message: Any) -> None:
    message.signatures[1].signature = message.signatures[0].signature


def break_value(message: Any) -> None:
    message.value = common_pb2.OrdererBlockMetadata(last_config=common_pb2.LastConfig(index=1)).SerializeToString()


def break_header(message: Any) -> None:
    header = common_pb2.IdentifierHeader.FromString(message.signatures[1].identifier_header)
    header.nonce = b"another"
    message.signatures[1].identifier_header = header.SerializeToString()


def claim_to_be_another(message: Any) -> None:
    header = common_pb2.IdentifierHeader.FromString(message.signatures[1].identifier_header)
    header.identifier = 4
    message.signatures[1].identifier_header = header.SerializeToString()


def claim_to_be_nobody(message: Any) -> None:
    header = common_pb2.IdentifierHeader.FromString(message.signatures[1].identifier_header)
    header.identifier = 5
    message.signatures[1].identifier_header = header.SerializeToString()


def without_header(message: Any) -> None:
    message.signatures[1].ClearField("identifier_header")


def with_two_headers(message: Any) -> None:
    message.signatures[1].signature_header = b"\x0a\x01x"


def with_unparseable_header(message: Any) -> None:
    message.signatures[1].identifier_header = b"\xff"


def sign_twice(message: Any) -> None:
    message.signatures.add().CopyFrom(message.signatures[0])


def drop_one(message: Any) -> None:
    del message.signatures[1]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (break_signature, "got 2 that are good"),
        (break_value, "got 0 that are good"),
        (break_header, "got 2 that are good"),
        (claim_to_be_another, "got 2 that are good"),
        (claim_to_be_nobody, "got 2 that are good"),
        (without_header, "got 2 that are good"),
        (with_unparseable_header, "do not parse"),
        (drop_one, "expected signatures of at least 3 of 4"),
    ],
)
def test_one_broken_signature_is_found(change: Callable[[Any], None], says: str) -> None:
    block = change_signatures(bft_block(), change)
    with pytest.raises(BlockError, match=says):
        check(block)


@pytest.mark.parametrize("signers", [(), (1,), (1, 2)])
def test_too_few_consenters_are_no_quorum(signers: tuple[int, ...]) -> None:
    block = build_block(7, PREVIOUS, ENVELOPES)
    sign_block(block, [consenter(n) for n in signers], last_config=0, identifiers=signers)
    with pytest.raises(BlockError, match=f"at least 3 of 4 consenters, got {len(signers)}"):
        check(block)


def test_one_node_counts_once_however_often_it_signs() -> None:
    block = change_signatures(bft_block((1, 2)), sign_twice)
    with pytest.raises(BlockError, match="got 2 that are good"):
        check(block)
    check(change_signatures(bft_block(), sign_twice))


@pytest.mark.parametrize(
    "change", [break_signature, break_header, claim_to_be_nobody, without_header, with_two_headers]
)
def test_a_wrong_signature_beside_three_good_ones_does_not_matter_as_to_peers(change: Callable[[Any], None]) -> None:
    check(change_signatures(bft_block((1, 2, 3, 4)), change))
    with pytest.raises(BlockError, match="do not parse"):
        check(change_signatures(bft_block((1, 2, 3, 4)), with_unparseable_header))


def test_peers_are_not_ordering_nodes_even_with_valid_certificates() -> None:
    block = build_block(7, PREVIOUS, ENVELOPES)
    sign_block(block, [organisations()[name].signer("peer0", "peer") for name in NAMES], last_config=0)
    with pytest.raises(BlockError, match="do not satisfy /Channel/Orderer/BlockValidation"):
        check(block)


def raft() -> tuple[ChannelConfig, Signer]:
    organisation = organisations()["alpha"]
    block = build_genesis_block(channel_spec(*organisations().values(), channel_id="scratch"))
    return ChannelConfig.from_block(block), organisation.signer("orderer1", "orderer")


def raft_block(signer: Signer) -> Any:
    block = build_block(7, PREVIOUS, ENVELOPES)
    sign_block(block, [signer], last_config=0, consenter_metadata=b"\x08\x01")
    return block


def test_under_raft_one_ordering_node_signs_with_its_certificate() -> None:
    config, orderer = raft()
    block = raft_block(orderer)
    check(block, config)
    metadata = decode_metadata(block)
    assert metadata.consenter_metadata == b"\x08\x01"
    assert metadata.signatures[0].creator == orderer.identity.serialized
    assert metadata.signatures[0].identifier is None


def test_under_raft_nobody_else_can_sign_a_block() -> None:
    config, _ = raft()
    foreign = make_organisation("alpha").signer("orderer1", "orderer")
    with pytest.raises(BlockError, match="the 0 good signatures do not satisfy"):
        check(raft_block(foreign), config)
    for unit in ("client", "peer", "admin"):
        with pytest.raises(BlockError, match="do not satisfy"):
            check(raft_block(organisations()["alpha"].signer("other", unit)), config)
    with pytest.raises(BlockError, match="do not satisfy"):
        check(raft_block(organisations()["beta"].signer("orderer2", "orderer")), config)
    unsigned = build_block(7, PREVIOUS, ENVELOPES)
    sign_block(unsigned, [], last_config=0)
    with pytest.raises(BlockError, match="do not satisfy"):
        check(unsigned, config)


def test_a_block_must_follow_the_one_before() -> None:
    block = bft_block()
    verify_link(PREVIOUS, block, number=7)
    verify_link(PREVIOUS, block)
    with pytest.raises(BlockError, match="expected block 8, got block 7"):
        verify_link(PREVIOUS, block, number=8)
    with pytest.raises(BlockError, match="does not follow"):
        verify_link(b"x" * 32, block, number=7)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "is empty"),
        ([ENVELOPES[0], b"\xff\xff"], "do not parse"),
        ([ENVELOPES[0], b"\x0a\x01c"], "lacks payload or signature"),
        ([ENVELOPES[0], b"\x12\x01c"], "lacks payload or signature"),
        ([ENVELOPES[0], b"\x12\x01d\x0a\x01c"], "not canonically encoded"),
        ([ENVELOPES[0], b"\x0a\x81\x00c\x12\x01d"], "not canonically encoded"),
        ([b""], "lacks payload or signature"),
    ],
)
def test_data_that_peers_refuse_are_refused(data: list[bytes], says: str) -> None:
    block = bft_block(data=data)
    verify_block_signatures(block, genesis_config())
    with pytest.raises(BlockError, match=says):
        check(block)


def test_changed_data_are_found() -> None:
    block = bft_block()
    block.data.data[1] = ENVELOPES[0]
    with pytest.raises(BlockError, match="the data of block 7 were changed"):
        verify_data(block)


@pytest.mark.parametrize("entry", [b"", b"x", encode_last_config(4)])
def test_entries_that_nobody_signs_do_not_matter_as_to_peers(entry: bytes) -> None:
    block = bft_block(last_config=5)
    block.metadata.metadata[1] = block.metadata.metadata[3] = entry
    check(block)
    assert decode_metadata(block).last_config == 5


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_block_has_at_least_five_metadata_entries(count: int) -> None:
    block = bft_block()
    del block.metadata.metadata[:]
    block.metadata.metadata.extend([b""] * count)
    with pytest.raises(BlockError, match="expected 5 metadata entries"):
        decode_metadata(block)
    with pytest.raises(BlockError, match="expected 5 metadata entries"):
        verify_commit(block, b"\0\0", b"")


def test_signatures_metadata_must_parse_and_may_hold_more_as_to_peers() -> None:
    block = bft_block()
    block.metadata.metadata[0] += b"\x7a\x01x"
    check(block)
    block.metadata.metadata[0] = b"\xff"
    with pytest.raises(BlockError, match="do not parse"):
        check(block)


def test_block_0_is_accepted_as_it_was_made_and_not_otherwise() -> None:
    verify_genesis(genesis())
    signed = copy(genesis())
    sign_block(signed, [consenter(1)], last_config=0, identifiers=[1])
    numbered = copy(genesis())
    numbered.header.number = 1
    linked = copy(genesis())
    linked.header.previous_hash = b"x"
    committed = copy(genesis())
    set_commit(committed, b"\0", b"x" * 32)
    elsewhere = copy(genesis())
    elsewhere.metadata.metadata[1] = b"\x0a\x02\x08\x05"
    valued = change_signatures(copy(genesis()), lambda message: setattr(message, "value", b"\x0a\x00\x0a\x00"))
    changed = copy(genesis())
    changed.data.data[0] += b"x"
    for block in (signed, numbered, linked, committed, elsewhere, valued, changed):
        with pytest.raises(BlockError):
            verify_genesis(block)


def copy(block: Any) -> Any:
    return common_pb2.Block.FromString(block.SerializeToString())


def test_a_block_survives_encoding() -> None:
    block = bft_block()
    assert decode_block(encode_block(block)) == block


def test_blocks_that_are_encoded_otherwise_are_refused() -> None:
    encoded = encode_block(bft_block())
    for changed in (encoded + b"\x7a\x01x", encoded[:-1], b"\xff" + encoded, encoded + encoded):
        with pytest.raises(BlockError):
            decode_block(changed)


@given(st.binary(max_size=60))
def test_decoding_anything_gives_a_block_or_a_block_error(encoded: bytes) -> None:
    try:
        assert encode_block(decode_block(encoded)) == encoded
    except BlockError as error:
        assert str(error)  # noqa: PT017


def test_the_commit_hash_chains_codes_updates_and_the_hash_before() -> None:
    expected = hashlib.sha256(b"\x02" + b"\x00\x0b" + b"updates" + b"before").digest()
    assert compute_commit_hash(b"before", b"\x00\x0b", b"updates") == expected
    long = bytes(300)
    assert compute_commit_hash(b"", long, b"") == hashlib.sha256(b"\xac\x02" + long).digest()


@pytest.mark.parametrize(
    ("codes", "commit_hash", "says"),
    [
        (b"\x00\x0a", b"h" * 32, "transaction 1: recorded as MVCC_READ_CONFLICT, but .* ENDORSEMENT_POLICY_FAILURE"),
        (b"\x00", b"h" * 32, "expected 1 validation codes, got 2"),
        (b"\x00\x0b\x00", b"h" * 32, "expected 3 validation codes, got 2"),
        (b"\x00\x0b", b"i" * 32, "recorded commit hash is not 6969"),
        (b"\x00\x0b", b"", "recorded commit hash is not empty"),
    ],
)
def test_recorded_results_that_differ_from_the_derived_ones_are_found(
    codes: bytes, commit_hash: bytes, says: str
) -> None:
    block = bft_block()
    set_commit(block, b"\x00\x0b", b"h" * 32)
    verify_commit(block, b"\x00\x0b", b"h" * 32)
    with pytest.raises(BlockError, match=says):
        verify_commit(block, codes, commit_hash)


def test_codes_have_names() -> None:
    assert code_name(0) == "VALID"
    assert code_name(11) == "MVCC_READ_CONFLICT"
    assert code_name(200) == "code 200"


def test_a_validated_block_states_its_results() -> None:
    ledger = scratch_ledger()
    validation = ledger.validate(ledger.craft(), ledger.craft(endorsers=["alpha"]))
    block = build_block(1, b"", [b"x", b"y"])
    set_commit(block, validation.filter, validation.commit_hash(b""))
    validation.verify_recorded(block, b"")
    with pytest.raises(BlockError, match="commit hash"):
        validation.verify_recorded(block, b"another")
