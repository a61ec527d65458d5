"""Proposals, endorsements and transactions: made, taken apart, refused when they do not hang together."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from fabric_protos.common import common_pb2
from fabric_protos.peer import chaincode_pb2, proposal_pb2, proposal_response_pb2, transaction_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.signing import verify_signature
from blockfl.fabric.transaction.envelope import (
    CONFIG,
    ENDORSER_TRANSACTION,
    AnnouncedEvent,
    Proposal,
    assemble_payload,
    assemble_transaction,
    build_proposal,
    compute_tx_id,
    encode_response_payload,
    endorse,
    parse_proposal,
    proposal_hash,
    sign_envelope,
)
from blockfl.fabric.transaction.reading import decode_transaction, read_tx_id
from blockfl.fabric.transaction.rwset import ReadWriteSet
from support.read_write_sets import encode_read_write_set
from support.recording import recorded_blocks, recorded_json
from support.scratch_ledger import client, peer, scratch_ledger, writes

ARGS = (b"Put", b"key", b"value")
SECRET = b"only for endorsers"


def proposal(transient: dict[str, bytes] | None = None) -> Proposal:
    return build_proposal("scratch", "app", ARGS, client("alpha"), transient, timestamp_ms=1_700_000_000_123)


def response(made: Proposal, name: str = "alpha", *, status: int = 200, results: bytes = b"") -> Any:
    event = AnnouncedEvent(chaincode="app", tx_id=made.tx_id, name="happened", payload=b"event")
    payload = encode_response_payload(made, results=results, version="1.0", payload=b"answer", event=event)
    signed = endorse(payload, peer(name))
    return proposal_response_pb2.ProposalResponse(
        version=1,
        response=proposal_response_pb2.Response(status=status, message="no" if status >= 400 else "OK"),
        payload=payload,
        endorsement=proposal_response_pb2.Endorsement(endorser=signed.endorser, signature=signed.signature),
    )


def test_a_proposal_is_what_a_peer_reads_from_it() -> None:
    made = proposal({"data": SECRET})
    parsed = parse_proposal(made.proposal_bytes, made.signature)
    assert parsed == made
    assert (made.channel, made.chaincode, made.args) == ("scratch", "app", ARGS)
    assert made.transient == {"data": SECRET}
    assert made.timestamp_ms == 1_700_000_000_123
    assert made.tx_id == hashlib.sha256(made.nonce + made.creator).hexdigest()
    verify_signature(client("alpha").identity.public_key, made.signature, made.proposal_bytes)
    assert made.signed_proposal.proposal_bytes == made.proposal_bytes


def test_every_proposal_has_another_id() -> None:
    assert proposal().tx_id != proposal().tx_id
    fixed = [build_proposal("c", "app", ARGS, client("alpha"), nonce=b"n", timestamp_ms=1) for _ in range(2)]
    assert fixed[0].proposal_bytes == fixed[1].proposal_bytes


def test_the_proposal_hash_does_not_depend_on_transient_values() -> None:
    pair = [
        build_proposal("c", "app", ARGS, client("alpha"), transient, nonce=b"n", timestamp_ms=1)
        for transient in (None, {"data": SECRET, "more": b"x"})
    ]
    assert pair[0].proposal_bytes != pair[1].proposal_bytes
    assert proposal_hash(pair[0]) == proposal_hash(pair[1])


def change_proposal(made: Proposal, **changes: Any) -> bytes:
    """Rebuild a proposal with one of its parts changed in place."""
    outer = proposal_pb2.Proposal.FromString(made.proposal_bytes)
    header = common_pb2.Header.FromString(outer.header)
    parts = {
        "channel_header": common_pb2.ChannelHeader.FromString(header.channel_header),
        "signature_header": common_pb2.SignatureHeader.FromString(header.signature_header),
        "payload": proposal_pb2.ChaincodeProposalPayload.FromString(outer.payload),
    }
    for name, change in changes.items():
        change(parts[name])
    header.channel_header = parts["channel_header"].SerializeToString()
    header.signature_header = parts["signature_header"].SerializeToString()
    outer.header = header.SerializeToString()
    outer.payload = parts["payload"].SerializeToString()
    return bytes(outer.SerializeToString())


def rename_invoked(payload: Any) -> None:
    invocation = chaincode_pb2.ChaincodeInvocationSpec.FromString(payload.input)
    invocation.chaincode_spec.chaincode_id.name = "other"
    payload.input = invocation.SerializeToString()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channel_header": lambda header: setattr(header, "type", CONFIG)}, "of type ENDORSER_TRANSACTION"),
        ({"channel_header": lambda header: setattr(header, "epoch", 1)}, "expected epoch 0"),
        ({"channel_header": lambda header: setattr(header, "tx_id", "00")}, "expected transaction id"),
        ({"channel_header": lambda header: setattr(header, "extension", b"\xff")}, "ChaincodeHeaderExtension"),
        ({"channel_header": lambda header: header.ClearField("extension")}, "expected one chaincode name"),
        ({"signature_header": lambda header: header.ClearField("nonce")}, "expected nonce and creator"),
        ({"signature_header": lambda header: header.ClearField("creator")}, "expected nonce and creator"),
        ({"payload": rename_invoked}, "expected one chaincode name"),
        ({"payload": lambda payload: setattr(payload, "input", b"\xff")}, "ChaincodeInvocationSpec"),
    ],
)
def test_a_proposal_that_does_not_hang_together_is_refused(changes: dict[str, Any], says: str) -> None:
    made = proposal()
    assert parse_proposal(change_proposal(made)) == parse_proposal(made.proposal_bytes)
    with pytest.raises(BlockError, match=says):
        parse_proposal(change_proposal(made, **changes))


def test_a_transaction_says_what_was_proposed_and_answered() -> None:
    made = proposal({"data": SECRET})
    results = encode_read_write_set(ReadWriteSet(namespaces=(writes("app", key=b"value"),)))
    responses = [response(made, name, results=results) for name in ("alpha", "beta", "gamma")]
    envelope = sign_envelope(assemble_transaction(made, responses), client("alpha"))
    transaction = decode_transaction(envelope)
    assert (transaction.tx_id, transaction.channel_id) == (made.tx_id, "scratch")
    assert (transaction.type, transaction.timestamp_ms) == (ENDORSER_TRANSACTION, made.timestamp_ms)
    assert (transaction.creator, transaction.nonce) == (made.creator, made.nonce)
    assert (transaction.chaincode, transaction.chaincode_version, transaction.args) == ("app", "1.0", ARGS)
    assert (transaction.response_status, transaction.response_payload) == (200, b"answer")
    assert transaction.event == AnnouncedEvent(chaincode="app", tx_id=made.tx_id, name="happened", payload=b"event")
    assert transaction.results == results
    assert transaction.proposal_hash == proposal_hash(made)
    assert [e.endorser for e in transaction.endorsements] == [
        peer(name).identity.serialized for name in ("alpha", "beta", "gamma")
    ]
    verify_signature(client("alpha").identity.public_key, transaction.signature, transaction.payload)
    assert scratch_ledger().code(envelope) == "VALID"


def test_transient_values_never_enter_a_transaction() -> None:
    made = proposal({"data": SECRET})
    assert SECRET in made.proposal_bytes
    assert SECRET not in assemble_transaction(made, [response(made)])


def test_an_endorser_counts_once() -> None:
    made = proposal()
    payload = response(made).payload
    endorsements = [endorse(payload, peer(name)) for name in ("beta", "alpha", "beta")]
    envelope = sign_envelope(assemble_payload(made, payload, endorsements), client("alpha"))
    found = [endorsement.endorser for endorsement in decode_transaction(envelope).endorsements]
    assert found == [peer("beta").identity.serialized, peer("alpha").identity.serialized]


def test_responses_that_cannot_become_a_transaction_are_refused() -> None:
    made = proposal()
    with pytest.raises(BlockError, match="at least one endorser's response"):
        assemble_transaction(made, [])
    with pytest.raises(BlockError, match="got status 500: no"):
        assemble_transaction(made, [response(made), response(made, status=500)])
    other = encode_read_write_set(ReadWriteSet(namespaces=(writes("app", key=b"other"),)))
    with pytest.raises(BlockError, match="different results"):
        assemble_transaction(made, [response(made), response(made, "beta", results=other)])
    unsigned = response(made)
    unsigned.ClearField("endorsement")
    with pytest.raises(BlockError, match="at least one endorsement"):
        assemble_transaction(made, [unsigned])


def test_recorded_transactions_are_taken_apart_as_the_recording_says() -> None:
    compared = 0
    for expected in recorded_json("expected")["transactions"]:
        envelope = recorded_blocks()[expected["block"]].data.data[expected["index"]]
        assert read_tx_id(envelope) == expected["tx_id"] or not expected["tx_id"]
        if not expected["function"] or expected["type"] != "ENDORSER_TRANSACTION":
            continue
        try:
            transaction = decode_transaction(envelope)
        except BlockError:
            assert expected["code"] != "VALID"
            continue
        assert transaction.args[0].decode() == expected["function"]
        if expected["code"] == "VALID":
            assert transaction.chaincode == expected["chaincode"]
        compared += 1
    assert compared > 190


def test_a_configuration_transaction_has_headers_and_data_only() -> None:
    transaction = decode_transaction(recorded_blocks()[66].data.data[0])
    assert transaction.type == CONFIG
    assert transaction.data
    assert not transaction.chaincode


def test_a_transaction_without_an_id_is_listed_under_that_of_nonce_and_creator() -> None:
    ledger = scratch_ledger()
    envelope = ledger.craft(nonce=b"nonce", channel_header=lambda header: header.ClearField("tx_id"))
    assert read_tx_id(envelope) == compute_tx_id(b"nonce", client("alpha").identity.serialized)


@pytest.mark.parametrize("envelope", [b"", b"\xff", b"\x0a\x00", b"\x0a\x01\xff", b"\x0a\x04\x0a\x02\x0a\x00"])
def test_an_envelope_without_headers_is_listed_under_no_id(envelope: bytes) -> None:
    assert read_tx_id(envelope) in (None, compute_tx_id(b"", b""))
    assert (read_tx_id(envelope) is None) == (envelope != b"\x0a\x04\x0a\x02\x0a\x00")


@given(st.binary(max_size=80))
def test_taking_anything_apart_gives_a_transaction_or_a_block_error(encoded: bytes) -> None:
    for take_apart in (decode_transaction, parse_proposal, read_tx_id):
        try:
            take_apart(encoded)
        except BlockError as error:
            assert "expected" in str(error)  # noqa: PT017


@given(st.integers(0, 2**32), st.integers(1, 255))
def test_a_changed_byte_gives_a_transaction_or_a_block_error(position: int, mask: int) -> None:
    envelope = bytearray(recorded_blocks()[11].data.data[0])
    envelope[position % len(envelope)] ^= mask
    try:
        decode_transaction(bytes(envelope))
    except BlockError as error:
        assert "expected" in str(error)  # noqa: PT017


def test_a_transaction_with_several_actions_is_not_taken_apart() -> None:
    def twice(transaction: transaction_pb2.Transaction) -> None:
        transaction.actions.add().CopyFrom(transaction.actions[0])

    with pytest.raises(BlockError, match="one action, got 2"):
        decode_transaction(scratch_ledger().craft(transaction=twice))
