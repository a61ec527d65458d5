"""What a rule about an update is: one object that holds everything about it.

A rule is in a table, or it is not applied: judging, settlement, the institution's agent and the documentation go
through the tables of ``rules``. What a broken rule tells is data, never prose: two members must endorse the same bytes,
and an error may be worded anew without a new version of the protocol.

    breach = find_breach(JUDGING, evidence)
    breach.rule.code, breach.reason             # Code.COSINE, "tenths -6"
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple, TypeVar

from blockfl.protocol.codes import Code, ProtocolError

Told = tuple[tuple[str, int | str], ...]
"""What a verdict tells beside its code: names with coarse values, the same for every member; () for nothing."""
Penalty = Literal["norm", "seal", "format", "late"]
"""What breaking a rule costs: the field of a task's ``Economics``."""
Evidence = TypeVar("Evidence")


@dataclass(frozen=True, kw_only=True)
class Rule(Generic[Evidence]):
    """One rule.

    Attributes:
        code: What an update gets that breaks it.
        condition: What must hold, for the documentation.
        tells: What a verdict tells about the update's values beside the code, for the documentation.
        penalty: What breaking it costs.
        check: What there is to tell if the rule is broken; None if it holds.
    """

    code: Code
    condition: str
    tells: str
    penalty: Penalty
    check: Callable[[Evidence], Told | None]


class Breach(NamedTuple):
    """A broken rule, and what there is to tell."""

    rule: "Rule[object]"
    told: Told

    @property
    def reason(self) -> str:
        """What a verdict tells, in one spelling: ``tensor dense/kernel, bits 16``."""
        return spell(self.told)


def spell(told: Told) -> str:
    """Return what a verdict tells as text."""
    return ", ".join(f"{name} {value}" for name, value in told)


def find_breach(rules: Iterable[Rule[Evidence]], evidence: Evidence) -> Breach | None:
    """Return the first rule that is broken, None if all hold."""
    for rule in rules:
        told = rule.check(evidence)
        if told is not None:
            return Breach(rule, told)  # type: ignore[arg-type]
    return None


def require(rules: Iterable[Rule[Evidence]], evidence: Evidence) -> None:
    """Check that all rules hold.

    Raises:
        ProtocolError: the code of the first one that is broken.
    """
    breach = find_breach(rules, evidence)
    if breach:
        raise ProtocolError(breach.rule.code, describe_breach(breach.rule.code, breach.reason))


def describe_breach(code: Code, reason: str) -> str:
    """Return a broken rule in words: what its code means, and what there is to tell."""
    return f"{code.meaning} ({reason})" if reason else code.meaning


def tell(is_broken: bool, **values: int | str) -> Told | None:
    """Return what a check returns: these values if the rule is broken, otherwise None."""
    return tuple(values.items()) if is_broken else None
