"""Each fixture breaks one check of a transaction's form, creator or proposal and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fabric_protos.common import common_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.block import build_block
from blockfl.fabric.errors import BlockError
from blockfl.fabric.identity.signing import Identity, Signer, create_private_key
from blockfl.fabric.transaction.envelope import compute_tx_id, hash_proposal
from blockfl.fabric.validate import SignatureCache, validate_block, validate_transaction
from support.broken_transactions import BROKEN, UNPARSEABLE, setting
from support.organisation import make_organisation
from support.scratch_ledger import (
    PROPOSAL_PAYLOAD,
    ScratchLedger,
    client,
    event,
    organisations,
    same_key_elsewhere,
    scratch_ledger,
    serialized,
    writes,
)


@pytest.fixture
def ledger() -> ScratchLedger:
    return scratch_ledger()


def test_the_transaction_that_all_fixtures_start_from_is_valid(ledger: ScratchLedger) -> None:
    assert ledger.code(ledger.craft([writes("app", key=b"value")], event=event())) == "VALID"


@pytest.mark.parametrize("what", BROKEN)
def test_one_broken_check_gives_its_code(ledger: ScratchLedger, what: str) -> None:
    code, changes = BROKEN[what]
    envelope = ledger.craft([writes("app", key=b"value")], **changes)
    validation = ledger.validate(envelope)
    assert [transaction_pb2.TxValidationCode.Name(given) for given in validation.codes] == [code]
    assert validation.reasons[0]
    assert not validation.updates.public
    assert not validation.updates.hashed


def test_a_creator_that_signs_with_another_key_is_refused(ledger: ScratchLedger) -> None:
    other = organisations()["alpha"].signer("another", "client")
    envelope = ledger.craft(envelope=lambda message: setattr(message, "signature", other.sign(message.payload)))
    assert ledger.code(envelope) == "BAD_CREATOR_SIGNATURE"


def test_a_creator_of_a_foreign_authority_is_refused_even_under_a_known_name(ledger: ScratchLedger) -> None:
    foreign = make_organisation("alpha").signer("user", "client")
    assert ledger.code(ledger.craft(creator=foreign)) == "BAD_CREATOR_SIGNATURE"


def test_a_creator_of_an_unknown_organisation_is_refused(ledger: ScratchLedger) -> None:
    assert ledger.code(ledger.craft(creator=make_organisation("omega").signer("user"))) == "BAD_CREATOR_SIGNATURE"
    assert ledger.code(ledger.craft(creator=same_key_elsewhere(client("alpha"), "beta"))) == "BAD_CREATOR_SIGNATURE"


def test_a_creator_without_a_role_is_refused(ledger: ScratchLedger) -> None:
    assert ledger.code(ledger.craft(creator=organisations()["beta"].signer("nobody", None))) == "BAD_CREATOR_SIGNATURE"


@pytest.mark.parametrize("unit", ["client", "peer", "admin", "orderer"])
def test_a_creator_may_have_any_role(ledger: ScratchLedger, unit: Any) -> None:
    creator = organisations()["delta"].signer("someone", unit)
    assert ledger.code(ledger.craft([writes("app", key=b"value")], creator=creator)) == "VALID"


def test_an_expired_creator_is_accepted_because_a_ledger_outlives_certificates(ledger: ScratchLedger) -> None:
    authority = organisations()["alpha"].signing
    key = create_private_key()
    start = authority.certificate.not_valid_before_utc  # a few minutes ago
    end = start + timedelta(minutes=1)
    pem = authority.issue(key.public_key(), common_name="old", unit="client", valid_from=start, valid_until=end)
    assert end < datetime.now(UTC)
    creator = Signer(Identity(msp_id="alpha", certificate_pem=pem), key)
    assert ledger.code(ledger.craft([writes("app", key=b"value")], creator=creator)) == "VALID"


@pytest.mark.parametrize("field", ["nonce", "creator"])
def test_the_actions_own_header_needs_nonce_and_creator_even_if_it_was_endorsed(
    ledger: ScratchLedger, field: str
) -> None:
    kept: dict[str, Any] = {}

    def keep_channel_header(header: Any) -> None:
        kept["channel_header"] = serialized(header)

    def strip(header: bytes) -> bytes:
        message = common_pb2.SignatureHeader.FromString(header)
        message.ClearField(field)
        return serialized(message)

    def keep_signature_header(header: Any) -> None:
        kept["signature_header"] = strip(serialized(header))

    def bind(response: Any) -> None:
        header = common_pb2.Header(**kept)
        response.proposal_hash = hash_proposal(header, PROPOSAL_PAYLOAD)

    envelope = ledger.craft(
        channel_header=keep_channel_header, signature_header=keep_signature_header, response=bind, action_header=strip
    )
    assert ledger.code(envelope) == "INVALID_ENDORSER_TRANSACTION"
    assert "expected nonce and creator" in ledger.validate(envelope).reasons[0]


def test_a_namespace_that_is_there_twice_is_illegal(ledger: ScratchLedger) -> None:
    assert ledger.code(ledger.craft([writes("app", a=b"1"), writes("app", b=b"2")])) == "ILLEGAL_WRITESET"


def test_a_transaction_id_on_the_ledger_is_a_duplicate(ledger: ScratchLedger) -> None:
    envelope = ledger.craft([writes("app", key=b"value")])
    assert ledger.commit(envelope).codes == (transaction_pb2.VALID,)
    assert ledger.code(envelope) == "DUPLICATE_TXID"


def test_the_id_of_an_invalid_transaction_counts_as_used_in_later_blocks(ledger: ScratchLedger) -> None:
    nonce = b"n" * 24
    ledger.commit(ledger.craft(nonce=nonce, endorsers=["alpha"]))
    assert ledger.code(ledger.craft(nonce=nonce)) == "DUPLICATE_TXID"


def test_an_id_that_a_transaction_only_claims_counts_as_used_in_later_blocks(ledger: ScratchLedger) -> None:
    nonce = b"n" * 24
    tx_id = compute_tx_id(nonce, client("alpha").identity.serialized)
    thief = ledger.craft(creator=client("beta"), channel_header=setting("tx_id", tx_id))
    assert ledger.commit(thief).codes == (transaction_pb2.BAD_PROPOSAL_TXID,)
    assert ledger.code(ledger.craft(nonce=nonce)) == "DUPLICATE_TXID"


def test_within_a_block_the_first_valid_transaction_of_an_id_counts(ledger: ScratchLedger) -> None:
    nonce = b"n" * 24
    invalid = ledger.craft(nonce=nonce, endorsers=["alpha"])
    first, second = (ledger.craft([writes("app", key=value)], nonce=nonce) for value in (b"1", b"2"))
    assert ledger.validate(invalid, first, second).codes == (
        transaction_pb2.ENDORSEMENT_POLICY_FAILURE,
        transaction_pb2.VALID,
        transaction_pb2.DUPLICATE_TXID,
    )


def test_a_transaction_can_be_checked_alone_before_it_is_ordered(ledger: ScratchLedger) -> None:
    signatures = SignatureCache()
    good, bad = ledger.craft(), ledger.craft(endorsers=["alpha"])
    assert validate_transaction(good, ledger.config, ledger.state, signatures=signatures) == transaction_pb2.VALID
    assert (
        validate_transaction(bad, ledger.config, ledger.state, signatures=signatures)
        == transaction_pb2.ENDORSEMENT_POLICY_FAILURE
    )
    assert validate_transaction(good, ledger.config, ledger.state) == transaction_pb2.VALID


def test_block_0_must_hold_a_configuration(ledger: ScratchLedger) -> None:
    with pytest.raises(BlockError, match="block 0 does not hold a configuration"):
        validate_block(build_block(0, b"", [ledger.craft()]), ledger.config, ledger.state)


def test_a_block_of_anything_never_stops_the_validator(ledger: ScratchLedger) -> None:
    good = ledger.craft([writes("app", key=b"value")])
    validation = ledger.validate(b"", b"\x00", UNPARSEABLE, b"\x0a\x00", good[:-1], good)
    assert [code == transaction_pb2.VALID for code in validation.codes] == [False] * 5 + [True]
    assert [tx_id is None for tx_id in validation.tx_ids] == [True] * 5 + [False]
