"""One attack tried: what was observed, and whether the honest round went on."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from attacks.arena import Arena
from attacks.catalogue import Attack, Outcome


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What came of one attack.

    Attributes:
        expected: what the catalogue says of this ledger.
        observed: what the attacker saw; nothing when the attack could not be carried out.
        problem: why the attack could not be carried out, or what became of the honest round; "" if that went on.
    """

    attack: Attack
    expected: tuple[Outcome, ...]
    observed: tuple[Outcome, ...]
    problem: str

    @property
    def unexpected(self) -> bool:
        """Whether something else was observed than the catalogue says."""
        return self.observed != self.expected

    @property
    def passed(self) -> bool:
        """Whether everything is as it should be."""
        return not self.unexpected and not self.problem

    @property
    def observation(self) -> str:
        """What was observed, in one line."""
        return ", ".join(map(str, self.observed)) or "nothing"

    def as_dict(self) -> dict[str, object]:
        """Return the trial for machines."""
        return {
            "attack": self.attack.name,
            "area": self.attack.area,
            "by": self.attack.by,
            "does": self.attack.does,
            "expected": [str(one) for one in self.expected],
            "observed": [str(one) for one in self.observed],
            "honest_round": self.problem or "completed, with the right model",
            "passed": self.passed,
        }


_TESTS = Path(__file__).parents[1]


async def try_attack(attack: Attack, arena: Arena) -> Trial:
    """Carry an attack out in a round of its own and complete that round."""
    observed: tuple[Outcome, ...] = ()
    expected = attack.expected_on(arena.ledger_kind)
    try:
        bout = await arena.begin(attack.terms)
        observed = await attack.run(bout)
        await bout.finish()
    except Exception as error:
        stage = "the honest round did not go on" if observed else "the attack was not carried out"
        # What waits in vain ends in the standard library: who waited is what helps.
        where = [one for one in traceback.extract_tb(error.__traceback__) if _TESTS in Path(one.filename).parents][-1]
        text = str(error).partition("\n")[0]
        problem = f"{stage}: {type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"
        return Trial(attack=attack, expected=expected, observed=observed, problem=problem)
    return Trial(attack=attack, expected=expected, observed=observed, problem="")
