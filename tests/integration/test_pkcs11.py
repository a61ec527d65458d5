"""Keys in a PKCS#11 token (SoftHSM): found, used, never read, and the token's logins shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.errors import IdentityError
from blockfl.fabric.identity.pkcs11 import Pkcs11Signer
from blockfl.fabric.identity.signing import Identity, has_low_s, verify_signature
from support.hardware import Token, software_token
from support.organisation import Organisation, make_organisation
from support.scripted_peer import scripted_peer


@pytest.fixture
def token(tmp_path: Path) -> Iterator[Token]:
    with software_token(tmp_path) as one:
        yield one


@pytest.fixture
def organisation() -> Organisation:
    return make_organisation("alpha")


def open_signer(place: Token, identity: Identity, **settings: Any) -> Pkcs11Signer:
    known = {"library": place.library, "token": place.label, "pin": place.pin}
    return Pkcs11Signer.open(identity, **known | settings)


def test_signatures_verify_and_have_a_low_s(token: Token, organisation: Organisation) -> None:
    identity = token.make_identity(organisation, "operator")
    with open_signer(token, identity) as signer:
        signatures = [signer.sign(bytes([number])) for number in range(24)]
    for number, signature in enumerate(signatures):
        verify_signature(identity.public_key, signature, bytes([number]))
    assert all(map(has_low_s, signatures))


def test_the_key_cannot_be_read_from_the_token(token: Token, organisation: Organisation) -> None:
    import pkcs11

    identity = token.make_identity(organisation, "operator")
    with open_signer(token, identity) as signer, pytest.raises(pkcs11.AttributeSensitive):
        signer._key[pkcs11.Attribute.VALUE]


def test_a_key_may_be_named(token: Token, organisation: Organisation) -> None:
    identity = token.make_identity(organisation, "operator", key_id=b"mine")
    with open_signer(token, identity, key_id=b"mine") as signer:
        verify_signature(identity.public_key, signer.sign(b"message"), b"message")
    with pytest.raises(IdentityError, match="expected an EC private key with the id"):
        open_signer(token, identity)


def test_a_key_of_another_certificate_is_refused(token: Token, organisation: Organisation) -> None:
    mine = token.make_identity(organisation, "mine", key_id=b"mine")
    token.make_identity(organisation, "other", key_id=b"other")
    with pytest.raises(IdentityError, match=r"has no key of alpha's certificate: the signature .* does not verify"):
        open_signer(token, mine, key_id=b"other")


@pytest.mark.parametrize(
    "wrong",
    [{"pin": "9999"}, {"token": "elsewhere"}, {"library": "/nowhere/library.so"}],
    ids=lambda one: next(iter(one)),
)
def test_what_does_not_open_is_said(token: Token, organisation: Organisation, wrong: dict[str, str]) -> None:
    identity = token.make_identity(organisation, "operator")
    with pytest.raises(IdentityError, match=r"cannot log in to the token .* check library, label and PIN"):
        open_signer(token, identity, **wrong)


def test_two_signers_of_one_token_do_not_log_each_other_out(token: Token, organisation: Organisation) -> None:
    first, second = (token.make_identity(organisation, name) for name in ("first", "second"))
    with open_signer(token, first) as one:
        with open_signer(token, second) as other:
            verify_signature(second.public_key, other.sign(b"message"), b"message")
        verify_signature(first.public_key, one.sign(b"message"), b"message")
    with pytest.raises(IdentityError, match="closed"):
        one.sign(b"message")


async def test_a_gateway_signs_with_the_token(token: Token) -> None:
    async with scripted_peer() as peer:
        with open_signer(token, token.make_identity(peer.organisation, "operator")) as signer:
            async with Gateway(peer.endpoint, signer, "fed") as gateway:
                committed = await gateway.submit("app", "Put", "key", b"value")
    assert committed.block_number == 1
    assert peer.calls == ["Endorse", "Submit", "CommitStatus"]
