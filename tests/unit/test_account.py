"""Accounts: what moves, what is refused, and that nothing but a grant changes the total."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.protocol.account import (
    compute_required_stake,
    create_standing,
    grant,
    lock,
    release,
    transfer,
)
from blockfl.protocol.canonical import MAX_INTEGER
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.economics import DEFAULT_ECONOMICS, Account, Supply

NAMES = ("alpha", "beta", "treasury")


def account(credits: int = 0, name: str = "alpha") -> Account:
    return Account(organisation=name, credits=credits)


@pytest.mark.parametrize("amount", [0, -1, MAX_INTEGER + 1])
def test_an_amount_that_is_none_is_refused(amount: int) -> None:
    with pytest.raises(ProtocolError, match=r"^BFL601"):
        grant(Supply(granted=0), account(), amount)
    with pytest.raises(ProtocolError, match=r"^BFL601"):
        transfer(account(5), account(name="beta"), amount)


def test_a_transfer_to_oneself_is_refused() -> None:
    with pytest.raises(ProtocolError, match=r"^BFL601"):
        transfer(account(5), account(5), 1)


def test_more_credits_than_an_integer_counts_are_refused() -> None:
    supply, full = grant(Supply(granted=0), account(), MAX_INTEGER)
    assert (supply.granted, full.credits) == (MAX_INTEGER, MAX_INTEGER)
    with pytest.raises(ProtocolError, match=r"^BFL602"):
        grant(supply, account(name="beta"), 1)
    with pytest.raises(ProtocolError, match=r"^BFL602"):
        compute_required_stake(DEFAULT_ECONOMICS, samples=MAX_INTEGER, samples_cap=MAX_INTEGER)


def test_nobody_spends_more_than_he_has() -> None:
    with pytest.raises(ProtocolError, match=r"^BFL603") as caught:
        transfer(account(5), account(name="beta"), 6)
    assert caught.value.code is Code.BALANCE
    with pytest.raises(ProtocolError, match=r"^BFL603"):
        lock(account(5), create_standing("heart", "alpha", 6), 6)


def test_a_stake_grows_with_the_samples_up_to_the_cap() -> None:
    policy = DEFAULT_ECONOMICS
    assert (
        compute_required_stake(policy, samples=10, samples_cap=100) == policy.stake_base + 10 * policy.stake_per_sample
    )
    assert compute_required_stake(policy, samples=500, samples_cap=100) == compute_required_stake(
        policy, samples=100, samples_cap=100
    )


def test_a_stake_is_filled_up_and_given_back() -> None:
    free, standing = lock(account(100), create_standing("heart", "alpha", 60), 60)
    assert (free.credits, standing.stake) == (40, 60)
    free, standing = lock(free, standing, 80)
    assert (free.credits, standing.stake, standing.required) == (20, 80, 80)
    free, standing = lock(free, standing, 10)
    assert (free.credits, standing.stake, standing.required) == (20, 80, 10)
    free, standing = release(free, standing)
    assert (free.credits, standing.stake) == (100, 0)


@given(
    st.lists(st.tuples(st.sampled_from(("grant", "transfer", "lock", "release")), st.sampled_from(NAMES),
                       st.sampled_from(NAMES), st.integers(-2, 60)), max_size=40)
)  # fmt: skip
def test_whatever_happens_the_credits_are_those_granted(steps: list[tuple[str, str, str, int]]) -> None:
    supply = Supply(granted=0)
    accounts = {name: account(0, name) for name in NAMES}
    standings = {name: create_standing("heart", name, 1) for name in NAMES}
    for step, source, target, amount in steps:
        with contextlib.suppress(ProtocolError):
            if step == "grant":
                supply, accounts[target] = grant(supply, accounts[target], amount)
            elif step == "transfer":
                accounts[source], accounts[target] = transfer(accounts[source], accounts[target], amount)
            elif step == "lock":
                accounts[source], standings[source] = lock(accounts[source], standings[source], max(1, amount))
            else:
                accounts[source], standings[source] = release(accounts[source], standings[source])
        held = sum(one.credits for one in accounts.values()) + sum(one.stake for one in standings.values())
        assert held == supply.granted
        assert all(one.credits >= 0 for one in accounts.values())
