"""Disputes about a wrap, against the naive reference: what one shown key proves, and what proves nothing."""

import json
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol import hpke
from blockfl.protocol.codes import Code
from blockfl.protocol.dispute import choose_ephemeral_key, claim_wrap, is_wrap_right, settle_claim
from blockfl.protocol.judging import open_update
from blockfl.protocol.records import Header, WrappedKey
from blockfl.protocol.seal import (
    SealPlace,
    commit_key,
    derive_data_key,
    encode_public_key,
    recover_data_key,
)
from reference import seal as naive
from support.federation import COMMITTEE, NOW_MS, make_federation
from support.refusal import code_of, refused

FEDERATION = make_federation()
SEED = bytes(range(32))
HEADER, CHUNKS = FEDERATION.update("alpha", np.arange(-7, 7, dtype=np.int16), SEED)
PLACE: dict[str, Any] = json.loads(SealPlace.of(HEADER).encode())
DATA_KEY = naive.data_key(SEED, PLACE, HEADER.payload_digest)
OTHER_KEY = bytes(32)


def ephemeral(member: str, key: bytes = DATA_KEY) -> bytes:
    """The ephemeral key of a member's wrap, by the letter of the specification."""
    public = next(one.public_key for one in HEADER.wrapped_keys if one.organisation == member)
    return naive.ephemeral_key(key, PLACE, member, public).private_bytes_raw()


def with_wrap(header: Header, member: str, **changes: str) -> Header:
    """A header with one member's wrap changed."""
    wraps = [one.model_copy(update=changes) if one.organisation == member else one for one in header.wrapped_keys]
    return header.model_copy(update={"wrapped_keys": tuple(wraps)})


def with_wrap_of(member: str, key: bytes) -> Header:
    """A header where one member's wrap holds another key, rightly made."""
    public = next(one.public_key for one in HEADER.wrapped_keys if one.organisation == member)
    wrap = WrappedKey.model_validate(naive.wrap(key, PLACE, member, public))
    return with_wrap(HEADER, member, encapsulation=wrap.encapsulation, ciphertext=wrap.ciphertext)


BROKEN = {
    "ciphertext": with_wrap(HEADER, "regulator", ciphertext="00" * 48),
    "encapsulation of nobody": with_wrap(HEADER, "regulator", encapsulation="09" + "00" * 31),
    "encapsulation of low order": with_wrap(HEADER, "regulator", encapsulation="00" * 32),
    "another's wrap": with_wrap(
        HEADER,
        "regulator",
        encapsulation=HEADER.wrapped_keys[0].encapsulation,
        ciphertext=HEADER.wrapped_keys[0].ciphertext,
    ),
    "another data key": with_wrap_of("regulator", OTHER_KEY),
}


@pytest.mark.parametrize("member", COMMITTEE)
def test_the_key_of_a_right_wrap_refutes_the_claim(member: str) -> None:
    assert is_wrap_right(HEADER, member, ephemeral(member))


@pytest.mark.parametrize("member", COMMITTEE)
@pytest.mark.parametrize("shown", COMMITTEE)
def test_so_does_the_key_of_any_other_right_wrap(member: str, shown: str) -> None:
    assert is_wrap_right(HEADER, member, ephemeral(shown))


@pytest.mark.parametrize("header", BROKEN.values(), ids=list(BROKEN))
@pytest.mark.parametrize("shown", ["coordinator", "university"])
def test_the_key_of_a_right_wrap_upholds_the_claim_about_a_wrong_one(header: Header, shown: str) -> None:
    assert not is_wrap_right(header, "regulator", ephemeral(shown))
    assert is_wrap_right(header, "university", ephemeral(shown))


def test_a_wrong_wrap_is_proven_wrong_by_its_own_key_too() -> None:
    assert not is_wrap_right(BROKEN["ciphertext"], "regulator", ephemeral("regulator"))
    assert not is_wrap_right(BROKEN["another data key"], "regulator", ephemeral("regulator", OTHER_KEY))


def test_a_wrap_of_the_committed_key_under_a_key_that_does_not_follow_from_it_is_wrong() -> None:
    """It opens, and every member says BFL412 all the same: nobody could have repeated it."""
    wrap = naive.wrap(DATA_KEY, PLACE, "regulator", HEADER.wrapped_keys[1].public_key, b"s" * 32)
    header = with_wrap(HEADER, "regulator", encapsulation=wrap["encapsulation"], ciphertext=wrap["ciphertext"])
    stray = hpke.derive_key(b"s" * 32)
    opened = recover_data_key(header, "regulator", FEDERATION.opening_keys["regulator"])
    assert opened == DATA_KEY
    assert not is_wrap_right(header, "regulator", stray.private_bytes_raw())
    assert is_wrap_right(header, "university", stray.private_bytes_raw())


@pytest.mark.parametrize("header", BROKEN.values(), ids=list(BROKEN))
def test_what_upholds_a_claim_is_what_every_member_rejects(header: Header) -> None:
    for member in COMMITTEE:
        key = FEDERATION.opening_keys[member]
        assert code_of(lambda key=key, member=member: open_update(header, CHUNKS, member, key)) is Code.WRAP_WRONG  # type: ignore[misc]


def test_the_key_of_a_wrong_wrap_says_nothing_about_another_one() -> None:
    for header, key in (
        (BROKEN["ciphertext"], ephemeral("regulator")),
        (BROKEN["another data key"], ephemeral("regulator", OTHER_KEY)),
    ):
        with refused(Code.EPHEMERAL_KEY, "university"):
            is_wrap_right(header, "university", key)


@given(st.binary(min_size=32, max_size=32))
def test_a_key_of_no_wrap_settles_nothing(key: bytes) -> None:
    for header in (HEADER, BROKEN["ciphertext"], BROKEN["encapsulation of low order"]):
        with refused(Code.EPHEMERAL_KEY):
            is_wrap_right(header, "regulator", key)


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_length_is_malformed(size: int) -> None:
    with refused(Code.MALFORMED, f"got {size}"):
        is_wrap_right(HEADER, "regulator", bytes(size))


def test_a_wrong_key_commitment_makes_every_claim_right() -> None:
    header = HEADER.model_copy(update={"key_commitment": commit_key(OTHER_KEY)})
    assert not is_wrap_right(header, "regulator", ephemeral("regulator"))
    with refused(Code.EPHEMERAL_KEY):
        is_wrap_right(header, "regulator", ephemeral("university"))


def test_of_two_wraps_with_one_encapsulation_the_one_that_opens_counts() -> None:
    header = BROKEN["another's wrap"]
    assert is_wrap_right(header, "coordinator", ephemeral("coordinator"))
    assert not is_wrap_right(header, "regulator", ephemeral("coordinator"))


# --- choosing what to show


@pytest.mark.parametrize("member", COMMITTEE)
def test_about_a_right_wrap_its_own_key_is_shown(member: str) -> None:
    assert choose_ephemeral_key(HEADER, DATA_KEY, member, "university") == ephemeral(member)


@pytest.mark.parametrize("header", BROKEN.values(), ids=list(BROKEN))
def test_about_a_wrong_wrap_one_s_own_key_is_shown_or_another_right_one_s(header: Header) -> None:
    assert choose_ephemeral_key(header, DATA_KEY, "regulator", "university") == ephemeral("university")
    assert choose_ephemeral_key(header, DATA_KEY, "regulator", "regulator") == ephemeral("coordinator")


def test_without_a_right_wrap_there_is_nothing_to_show() -> None:
    with refused(Code.EPHEMERAL_KEY, "nothing to show"):
        choose_ephemeral_key(HEADER, OTHER_KEY, "regulator", "university")


def test_what_is_chosen_settles() -> None:
    for header in (HEADER, *BROKEN.values()):
        for own in ("coordinator", "university"):
            data_key = recover_data_key(header, own, FEDERATION.opening_keys[own])
            key = choose_ephemeral_key(header, data_key, "regulator", own)
            assert is_wrap_right(header, "regulator", key) is (header is HEADER)


# --- the record


def test_a_claim_names_whose_wrap_of_which_update() -> None:
    dispute = claim_wrap(HEADER, "regulator", NOW_MS)
    assert (dispute.task, dispute.round, dispute.organisation, dispute.member) == ("heart", 1, "alpha", "regulator")
    assert (dispute.state, dispute.claimed_at_ms, dispute.settled_by, dispute.settled_at_ms) == (
        "claimed", NOW_MS, "", 0,
    )  # fmt: skip
    with refused(Code.OPENING_KEY, "beta"):
        claim_wrap(HEADER, "beta", NOW_MS)


@pytest.mark.parametrize(("header", "state"), [(HEADER, "refuted"), (BROKEN["ciphertext"], "upheld")])
def test_a_settled_claim_says_who_was_right_and_stays_so(header: Header, state: str) -> None:
    claimed = claim_wrap(header, "regulator", NOW_MS)
    settled = settle_claim(claimed, header, ephemeral("university"), "university", NOW_MS + 5)
    assert (settled.state, settled.settled_by, settled.settled_at_ms) == (state, "university", NOW_MS + 5)
    assert settle_claim(settled, header, b"", "alpha", NOW_MS + 9) == settled


def test_the_data_key_does_not_give_the_secret_of_the_commitment() -> None:
    """What the endorsers of a settlement see."""
    assert derive_data_key(SEED, SealPlace.of(HEADER), HEADER.payload_digest) == DATA_KEY
    secret = naive.commitment_secret(SEED, PLACE, HEADER.payload_digest)
    assert secret not in (DATA_KEY, *(ephemeral(member) for member in COMMITTEE))
    assert encode_public_key(FEDERATION.opening_keys["regulator"]) not in {
        encode_public_key(X25519PrivateKey.from_private_bytes(ephemeral(member))) for member in COMMITTEE
    }
