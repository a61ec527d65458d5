"""Decoders that take and refuse what Go's do: each difference that was found, and a comparison with Go itself."""

from __future__ import annotations

import base64
from typing import Final

import pytest
from fabric_protos.common import common_pb2, policies_pb2
from fabric_protos.peer import collection_pb2, policy_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.encoding.certificate import Certificate
from blockfl.fabric.encoding.der import DerError
from blockfl.fabric.encoding.pem import decode_pem
from blockfl.fabric.encoding.protobuf import MAX_DEPTH, encode_policy, parse, remarshal, rule_of
from blockfl.fabric.encoding.wire import encode_bytes, encode_prefix, encode_varint
from blockfl.fabric.errors import PolicyError
from blockfl.fabric.identity.policy import SignaturePolicy
from blockfl.fabric.identity.rule import compile_rule, is_satisfied
from blockfl.fabric.identity.signing import create_private_key
from support.go_comparison import MAKERS, count_differences
from support.golang import REFUSED, Kind, ask_go, find_go
from support.odd_certificates import ODD, issue_odd
from support.organisation import make_organisation
from support.rich_certificates import rich_certificates

SEEDED = 3000
HEADER = common_pb2.ChannelHeader(type=3, channel_id="fed", tx_id="ab", epoch=0)
ENCODED = HEADER.SerializeToString()


def group(depth: int, number: int = 1000) -> bytes:
    return encode_varint(number << 3 | 3) * depth + encode_varint(number << 3 | 4) * depth


def padded(value: int, size: int) -> bytes:
    encoded = bytearray(value >> 7 * index & 0x7F | 0x80 for index in range(size))
    encoded[-1] &= 0x7F
    return bytes(encoded)


TAKEN: Final = {
    "a tag padded to six bytes": padded(1 << 3, 6) + b"\x03",
    "a tag padded to ten bytes": padded(1 << 3, 10) + b"\x03",
    "a length padded to ten bytes": b"\x22" + padded(3, 10) + b"fed",
    "a value padded to ten bytes": b"\x08" + padded(3, 10),
    "groups nested 10 000 deep": group(MAX_DEPTH + 1) + b"\x08\x03",
    "an unknown field with a number that only unknown groups may have": b"\xa3\x06"
    + encode_varint((1 << 31) - 1 << 3)
    + b"\x00\xa4\x06\x08\x03",
    "a field of another wire type": b"\x0d\x00\x00\x00\x00\x08\x03",
    "the last of two values": b"\x08\x01\x08\x03",
}
MALFORMED: Final = {
    "a varint whose tenth byte overflows": b"\x08" + b"\x83" + b"\x80" * 8 + b"\x02",
    "a varint of eleven bytes": b"\x08" + b"\x83" + b"\x80" * 9 + b"\x00",
    "an overflow in an unknown field": b"\xc0\x3e" + b"\x80" * 9 + b"\x02",
    "groups nested one deeper": group(MAX_DEPTH + 2),
    "a group that does not end": b"\xa3\x06",
    "a group that another one ends": b"\xa3\x06\xac\x06",
    "an end without a group": b"\xa4\x06",
    "field number 0": b"\x00\x00",
    "a field number of 30 bits": encode_varint(1 << 29 << 3) + b"\x00",
    "wire type 6": b"\x46\x00",
    "wire type 7": b"\x47\x00",
    "text that is not UTF-8": b"\x22\x01\xff",
    "text with half a surrogate pair": b"\x22\x03\xed\xa0\x80",
    "a field that is cut off": b"\x22\x05fed",
    "a length of 64 bits": b"\x22" + b"\xff" * 9 + b"\x01",
}


@pytest.mark.parametrize("case", TAKEN)
def test_a_message_that_go_takes_is_taken(case: str) -> None:
    message = parse(common_pb2.ChannelHeader, TAKEN[case])
    assert (message.type, message.channel_id) in {(3, ""), (0, "fed")}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_message_that_go_refuses_is_refused(case: str) -> None:
    with pytest.raises(DecodeError):
        parse(common_pb2.ChannelHeader, MALFORMED[case])
    with pytest.raises(DecodeError):
        parse(common_pb2.ChannelHeader, ENCODED + MALFORMED[case])


def test_unknown_fields_are_left_out_of_what_was_parsed_and_kept_in_what_go_writes_again() -> None:
    encoded = common_pb2.Envelope(payload=b"p", signature=b"s").SerializeToString()
    unknown = padded(9 << 3, 3) + b"\x05"
    assert parse(common_pb2.Envelope, encoded + unknown).SerializeToString() == encoded
    assert remarshal(common_pb2.Envelope, encoded + unknown) == encoded + encode_varint(9 << 3) + b"\x05"
    assert remarshal(common_pb2.Envelope, encoded) == encoded


def nested_rule(depth: int, *, threshold: int = 1) -> bytes:
    rule = b"\x08\x00"
    for _ in range(depth):
        inner = encode_varint(1 << 3) + encode_varint(threshold) + encode_prefix(2, len(rule)) + rule
        rule = encode_bytes(2, inner)
    return rule


@pytest.mark.parametrize("depth", [0, 1, 29, 30, 49, 50, 51, 1000, 4990])
def test_a_policy_counts_however_deep_it_nests(depth: int) -> None:
    principal = policies_pb2.SignaturePolicyEnvelope().identities.add()
    envelope = encode_bytes(2, nested_rule(depth)) + encode_prefix(3, len(principal.SerializeToString()))
    parsed = parse(policies_pb2.SignaturePolicyEnvelope, envelope)
    assert rule_of(parsed) == nested_rule(depth)
    rule = compile_rule(rule_of(parsed), 1)
    assert is_satisfied(rule, 1, lambda index, one: True)
    assert not is_satisfied(rule, 1, lambda index, one: False)
    never = compile_rule(nested_rule(depth, threshold=2), 1)
    assert is_satisfied(never, 1, lambda index, one: True) is (depth == 0)
    with pytest.raises(PolicyError):
        compile_rule(rule_of(parsed), 0)


def test_a_deep_policy_within_other_messages_keeps_its_rule() -> None:
    policy = encode_bytes(1, encode_bytes(2, nested_rule(500)) + b"\x1a\x00")
    assert encode_policy(parse(policy_pb2.ApplicationPolicy, policy)) == encode_bytes(
        1, encode_bytes(2, nested_rule(500)) + b"\x1a\x00"
    )
    collection = encode_bytes(1, encode_bytes(1, encode_bytes(1, b"name") + encode_bytes(8, policy)))
    (entry,) = parse(collection_pb2.CollectionConfigPackage, collection).config
    again = parse(policy_pb2.ApplicationPolicy, encode_policy(entry.static_collection_config.endorsement_policy))
    assert rule_of(again.signature_policy) == nested_rule(500)
    shallow = policy_pb2.ApplicationPolicy(channel_config_policy_reference="/Channel/Application/Writers")
    assert encode_policy(shallow) == shallow.SerializeToString()


def test_a_rule_that_a_sender_puts_beside_a_policy_does_not_count() -> None:
    forged = encode_bytes(536_870_911, b"\x08\x00") + b"\x1a\x00"
    assert rule_of(parse(policies_pb2.SignaturePolicyEnvelope, forged)) == b""
    with pytest.raises(PolicyError):
        SignaturePolicy.parse(forged)


BODY: Final = base64.b64encode(b"content")
GOOD: Final = b"-----BEGIN X-----\n" + BODY + b"\n-----END X-----\n"
PEM_TAKEN: Final = {
    "plain": GOOD,
    "header lines": b"-----BEGIN X-----\nProc-Type: 4\na: b\n\n" + BODY + b"\n-----END X-----\n",
    "a broken block before": b"-----BEGIN X-----\n!!\n-----END X-----\n" + GOOD,
    "an unfinished block before": b"-----BEGIN X-----\n" + GOOD,
    "a space after BEGIN": GOOD.replace(b"BEGIN X-----", b"BEGIN X----- "),
    "a long type": GOOD.replace(b"X", b"X" * 70),
    "nothing after the END line": GOOD[:-1],
    "junk before": b"junk\n" + GOOD,
    "tabs within": GOOD.replace(BODY, BODY[:3] + b" \t\r\n" + BODY[3:]),
}
PEM_REFUSED: Final = {
    "text after the END line": GOOD[:-1] + b"x\n",
    "a vertical tab within": GOOD.replace(BODY, BODY[:3] + b"\x0b" + BODY[3:]),
    "a form feed within": GOOD.replace(BODY, BODY[:3] + b"\x0c" + BODY[3:]),
    "another type at the end": GOOD.replace(b"END X", b"END Y"),
    "junk on the line": b"junk" + GOOD,
    "no padding": GOOD.replace(b"=", b""),
}


@pytest.mark.parametrize("case", PEM_TAKEN)
def test_a_pem_text_that_go_takes_is_taken(case: str) -> None:
    block = decode_pem(PEM_TAKEN[case])
    assert block is not None
    assert block.content == b"content"


@pytest.mark.parametrize("case", PEM_REFUSED)
def test_a_pem_text_that_go_refuses_is_refused(case: str) -> None:
    assert decode_pem(PEM_REFUSED[case]) is None


def test_inner_and_outer_algorithm_of_a_certificate_must_be_the_same() -> None:
    plain = rich_certificates()[2]
    algorithm = bytes.fromhex("06082a8648ce3d040302")
    at = plain.rindex(algorithm)
    with pytest.raises(DerError, match="differ"):
        Certificate.parse(plain[:at] + algorithm[:-1] + b"\x03" + plain[at + len(algorithm) :])
    assert Certificate.parse(plain).algorithm.ecdsa_hash == "SHA256"


@pytest.fixture(scope="module")
def odd_certificates() -> dict[str, bytes]:
    authority, key = make_organisation("alpha").signing, create_private_key()
    issued = {one: issue_odd(one, authority.certificate, authority.key, key.public_key(), "peer") for one in ODD}
    blocks = {name: decode_pem(pem) for name, pem in issued.items()}
    return {name: block.content for name, block in blocks.items() if block is not None}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_certificate_is_taken_or_refused_as_by_go(odd_certificates: dict[str, bytes], name: str) -> None:
    if ODD[name].is_taken:
        assert Certificate.parse(odd_certificates[name]).der == odd_certificates[name]
    else:
        with pytest.raises(DerError):
            Certificate.parse(odd_certificates[name])


@pytest.mark.skipif(find_go() is None, reason="there is no Go on this machine")
def test_odd_certificates_are_those_that_go_takes_and_refuses(odd_certificates: dict[str, bytes]) -> None:
    answers = dict(zip(ODD, ask_go("certificate", list(odd_certificates.values())), strict=True))
    assert {name for name, answer in answers.items() if answer != REFUSED} == {
        name for name, odd in ODD.items() if odd.is_taken
    }


@pytest.mark.skipif(find_go() is None, reason="there is no Go on this machine")
@pytest.mark.parametrize("kind", MAKERS)
def test_decoders_read_what_go_reads(kind: Kind) -> None:
    assert count_differences(kind, SEEDED // 4 if kind == "chain" else SEEDED, seed=20261129) == 0


@pytest.mark.skipif(find_go() is None, reason="there is no Go on this machine")
@pytest.mark.parametrize("kind", MAKERS)
def test_the_comparison_reads_a_good_part_of_its_inputs_and_notices_another_reading(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, _ = MAKERS[kind]
    monkeypatch.setitem(MAKERS, kind, (make, lambda _: REFUSED))
    assert count_differences(kind, 500, seed=1) > 50
