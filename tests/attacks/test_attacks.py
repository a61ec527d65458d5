"""Every attack of the catalogue ends as the catalogue says, and the honest round goes on."""

from __future__ import annotations

import pytest

from attacks.arena import Arena
from attacks.catalogue import Attack, list_attacks
from attacks.trial import try_attack

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("attack", list_attacks(), ids=lambda attack: f"{attack.area}: {attack.name}")
async def test_an_attack_ends_as_expected_and_the_honest_round_goes_on(arena: Arena, attack: Attack) -> None:
    trial = await try_attack(attack, arena)
    assert trial.problem == ""
    assert trial.observation == ", ".join(map(str, trial.expected))
