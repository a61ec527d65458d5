"""An attack that comes to nothing says where, so that the next person need not look for it."""

import asyncio
from pathlib import Path
from typing import Any

from attacks.catalogue import Attack, refused
from attacks.terms import PLAIN
from attacks.trial import try_attack


class Arena:
    """An arena in which every round begins, and nothing else is there."""

    ledger_kind = "embedded"

    async def begin(self, _: Any) -> None:
        """Begin a round."""


async def test_an_attack_that_waits_in_vain_says_where_it_waited() -> None:
    async def wait(_: Any) -> Any:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    expect = (refused("access"),)
    attack = Attack(
        name="in vain",
        area="access",
        by="outsider",
        does="Waits.",
        expect=expect,
        on_fabric=expect,
        terms=PLAIN,
        run=wait,
    )
    trial = await try_attack(attack, Arena())  # type: ignore[arg-type]
    assert not trial.passed
    line = wait.__code__.co_firstlineno + 1
    assert trial.problem == f"the attack was not carried out: TimeoutError:  ({Path(__file__).name}:{line})"
