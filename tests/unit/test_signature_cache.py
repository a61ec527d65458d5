"""Signatures that were verified once are not verified again; nothing else is taken for granted."""

from __future__ import annotations

from typing import Any

import pytest
from fabric_protos.common import configtx_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.signing import verify_digest
from blockfl.fabric.validate import SignatureCache, signatures, validate_transaction
from support.scratch_ledger import client, organisations, peer, scratch_ledger, writes


def count_verifications(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    verified: list[bytes] = []

    def counting(key: Any, signature: bytes, digest: bytes) -> None:
        verified.append(signature)
        verify_digest(key, signature, digest)

    monkeypatch.setattr(signatures, "verify_digest", counting)
    return verified


def test_a_good_signature_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = count_verifications(monkeypatch)
    cache, signer = SignatureCache(), peer("alpha")
    signature = signer.sign(b"message")
    for _ in range(3):
        cache.verify(signer.identity, signature, b"message")
    assert len(verified) == 1


def test_a_bad_signature_is_refused_every_time() -> None:
    cache, signer = SignatureCache(), peer("alpha")
    signature = signer.sign(b"message")
    cache.verify(signer.identity, signature, b"message")
    for _ in range(2):
        with pytest.raises(IdentityError):
            cache.verify(signer.identity, signature, b"massage")
        with pytest.raises(IdentityError):
            cache.verify(peer("beta").identity, signature, b"message")
        with pytest.raises(IdentityError):
            cache.verify(signer.identity, signer.sign(b"other"), b"message")


def test_ones_own_signature_need_not_be_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = count_verifications(monkeypatch)
    cache, signer = SignatureCache(), peer("alpha")
    signature = signer.sign(b"message")
    cache.remember(signer.identity, signature, b"message")
    cache.verify(signer.identity, signature, b"message")
    assert not verified


def test_only_so_many_signatures_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = count_verifications(monkeypatch)
    cache, signer = SignatureCache(capacity=2), peer("alpha")
    messages = [b"0", b"1", b"0", b"2", b"0", b"1"]
    made = {message: signer.sign(message) for message in set(messages)}
    for message in messages:
        cache.verify(signer.identity, made[message], message)
    assert verified == [made[b"0"], made[b"1"], made[b"2"], made[b"1"]]


def test_what_was_checked_before_ordering_costs_no_signature_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, cache = scratch_ledger(), SignatureCache()
    envelope = ledger.craft([writes("app", key=b"value")])
    validate_transaction(envelope, ledger.config, ledger.state, signatures=cache)
    verified = count_verifications(monkeypatch)
    assert validate_transaction(envelope, ledger.config, ledger.state, signatures=cache) == transaction_pb2.VALID
    assert not verified


def test_a_remembered_signature_does_not_save_a_revoked_certificate() -> None:
    ledger, cache = scratch_ledger(), SignatureCache()
    envelope = ledger.craft([writes("app", key=b"value")])
    assert validate_transaction(envelope, ledger.config, ledger.state, signatures=cache) == transaction_pb2.VALID
    alpha = organisations()["alpha"]
    revoked = alpha.msp_config(crls=[alpha.signing.revoke([client("alpha").identity.certificate_pem])])
    changed = configtx_pb2.Config()
    changed.CopyFrom(ledger.config.config)
    for group in ("Application", "Orderer"):
        changed.channel_group.groups[group].groups["alpha"].values["MSP"].value = revoked.SerializeToString()
    config = ChannelConfig.from_config(changed, ledger.config.channel_id)
    code = validate_transaction(envelope, config, ledger.state, signatures=cache)
    assert code == transaction_pb2.BAD_CREATOR_SIGNATURE
