"""The catalogue itself: complete, unambiguous, and the same on its page of the documentation."""

from __future__ import annotations

from collections import Counter

import pytest

from attacks.catalogue import AREAS, MEANINGS, Outcome, list_attacks
from attacks.page import BEGIN, END, PAGE, with_attacks
from attacks.trial import Trial

ATTACKS = list_attacks()


def test_there_are_attacks_in_every_area() -> None:
    assert set(Counter(one.area for one in ATTACKS)) == set(AREAS)
    assert len(ATTACKS) >= 30


def test_every_attack_is_one_sentence_and_expects_something() -> None:
    for one in ATTACKS:
        assert one.does.endswith("."), one.name
        assert one.does[0].isupper(), one.name
        assert one.expect, one.name
        assert {outcome.how for outcome in one.expect} <= set(MEANINGS), one.name


def test_the_page_is_current() -> None:
    text = PAGE.read_text()
    assert with_attacks(text) == text, "write it anew: make docs"


@pytest.mark.parametrize("markers", ["", BEGIN, END, f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_both_markers_is_refused(markers: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        with_attacks(f"# Attacks\n{markers}\n")


def test_a_trial_fails_on_another_outcome_and_on_a_broken_round() -> None:
    attack = ATTACKS[0]
    good = Trial(attack=attack, expected=attack.expect, observed=attack.expect, problem="")
    assert good.passed
    assert not Trial(attack=attack, expected=attack.expect, observed=(), problem="").passed
    assert not Trial(attack=attack, expected=attack.expect, observed=(Outcome("refused", "BFL999"),), problem="").passed
    assert not Trial(
        attack=attack, expected=attack.expect, observed=(*attack.expect, *attack.expect), problem=""
    ).passed
    assert not Trial(
        attack=attack, expected=attack.expect, observed=attack.expect, problem="the round did not go on"
    ).passed
