"""Rounds that open by the rules, but from other records than those before them on the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from blockfl.protocol import catalogue
from blockfl.protocol.canonical import Record
from blockfl.protocol.records import Round
from blockfl.protocol.round import open_round
from support.recorded_world import Telling, publish_recorded_round, tell
from support.scenario import TASK

R = TypeVar("R", bound=Record)
Forgery = Callable[[Telling], None]
FIRST, SECOND = catalogue.ROUND.key(TASK, 1), catalogue.ROUND.key(TASK, 2)
PROGRESS, INITIAL = catalogue.PROGRESS.key(TASK), catalogue.MODEL.key(TASK, 0)
MEMBER = catalogue.COMMITTEE_KEY.key("regulator")


def enrolled(organisation: str) -> str:
    return catalogue.ENROLMENT.key(TASK, organisation)


async def publish_and_open() -> Telling:
    """What is on the ledger when round 1 is published and round 2 has just opened."""
    scenario = await publish_recorded_round()
    await scenario.open(2)
    return tell(scenario)


def change(kind: type[R], key: str, **fields: Any) -> Callable[[Telling], R]:
    """Return what makes of a record, as it is, another one."""
    return lambda told: kind.decode(told[key]).model_copy(update=fields)


def open_anew(key: str = FIRST, without: str = "", **inputs: Any) -> Forgery:
    """Write a round as the rules open it, but from these inputs, or from enrolments without one."""

    def forge(told: Telling) -> None:
        first = Round.decode(told.read(key, 0))
        past = told.history().before(key)
        consortium = past.get(catalogue.CONSORTIUM.key())
        arguments: dict[str, Any] = {
            "task": past.get(catalogue.TASK.key(TASK)),
            "progress": past.get(PROGRESS),
            "previous": past.find(catalogue.ROUND.key(TASK, first.round - 1)),
            "consortium": consortium,
            "keys": past.read_all(catalogue.COMMITTEE_KEYS.below()),
            "enrolments": [
                one for one in past.read_all(catalogue.ENROLMENTS.below(TASK)) if one.organisation != without
            ],
            "number": first.round,
            "now_ms": first.opened_at_ms,
        }
        given = {name: make(told) if callable(make) else make for name, make in inputs.items()}
        told.replace(key, 0, open_round(**(arguments | given)).encode())

    return forge


def set_fields(key: str, **fields: Any) -> Forgery:
    """Replace fields of a round as it opened."""

    def forge(told: Telling) -> None:
        told.replace(key, 0, Round.decode(told.read(key, 0)).model_copy(update=fields).encode())

    return forge
