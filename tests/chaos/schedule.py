"""The schedule: which fault strikes where, in which round and at which moment; a pure function of seed and rounds.

A schedule leaves enough members in every round: at most one institution is struck in a round, and none other in the
round after a fault that lasts. So every round of every schedule has to be published.

    schedule = draw_schedule(rounds=200, seed=1, ledger="embedded")
    assert draw_schedule(rounds=20, seed=1, ledger="embedded").faults == schedule.until(20).faults
    assert Schedule.load(schedule.dump()) == schedule
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from support.federation_processes import COMMITTEE, INSTITUTIONS

LedgerKind = Literal["embedded", "local"]
Kind = Literal["kill", "pause", "cut", "slow", "tear", "starve", "step", "fill"]
Target = Literal["node", "peer", "orderer", "leader", "contract", "aggregator", "agent", "organisation", "machine"]
Moment = Literal["RoundOpened", "UpdateSubmitted", "UpdateJudged", "RoundClosed", "AggregateAttested", "ModelPublished"]

MOMENTS: Final[tuple[Moment, ...]] = get_args(Moment)
_WHILE_OPEN: Final = MOMENTS[:3]
ORGANISATIONS: Final = tuple(sorted((*COMMITTEE, *INSTITUTIONS)))
ORDERING: Final = ("cleveland", *COMMITTEE)
"""The organisations of the default consortium that run an ordering node."""
_OUTSIDE: Final[tuple[tuple[Kind, Target], ...]] = (
    *(("kill", "aggregator"), ("kill", "agent"), ("pause", "aggregator"), ("pause", "agent")),
    *(("cut", "aggregator"), ("cut", "agent"), ("slow", "aggregator"), ("slow", "agent")),
    *(("step", "aggregator"), ("step", "agent"), ("fill", "aggregator"), ("fill", "agent")),
    *(("starve", "machine"), ("kill", "organisation"), ("kill", "contract"), ("pause", "contract")),
)
MENU: Final[dict[LedgerKind, tuple[tuple[Kind, Target], ...]]] = {
    "embedded": (*_OUTSIDE, ("kill", "node"), ("pause", "node"), ("fill", "node")),
    "local": (
        *_OUTSIDE,
        *(("kill", "peer"), ("kill", "orderer"), ("kill", "leader")),
        *(("pause", "peer"), ("pause", "orderer"), ("pause", "leader"), ("fill", "peer")),
        *(("tear", "peer"), ("tear", "orderer"), ("tear", "leader")),
    ),
}
"""What can be done to what on each ledger. The embedded node is everybody's peer and ordering node."""
_WHERE: Final[dict[Target, Sequence[str]]] = {
    "peer": ORGANISATIONS,
    "orderer": ORDERING,
    "contract": ORGANISATIONS,
    "aggregator": COMMITTEE,
    "agent": INSTITUTIONS,
    "organisation": ORGANISATIONS,
}
_SMALL_STEPS_S: Final = (-20, 20)
_STEPS_S: Final = (*_SMALL_STEPS_S, *_SMALL_STEPS_S, -3600, 3600)
"""Peers tolerate 30 s: with the small steps work goes on, with the large ones it waits until the clock is back.

An agent skips a round that is over by its clock, and the others wait for it until the deadline. On real Fabric that is
minutes away, so agents' clocks take small steps only.
"""
_FAULTS_PER_ROUND: Final = (0, 1, 1, 1, 1, 1, 1, 2, 2, 2)
_LONGEST_DELAY_MS: Final = 1500
_LONGEST_DELAY_WHILE_OPEN_MS: Final = 300


class ScheduleError(Exception):
    """A schedule that cannot be used."""


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Fault(_Model):
    """One fault.

    Attributes:
        round: In which round it strikes.
        at: After the round's first event of this name, ``after_ms`` later.
        kind: kill -9, SIGSTOP until SIGCONT, a link that is cut or slow, connections that are torn as soon as there
            are any, busy processors, a step of a clock, a full disk.
        target: What it strikes; ``leader`` is the ordering node that leads at that moment. The disk of a peer is that
            of all nodes of its organisation.
        organisation: Whose; empty for what belongs to nobody.
        lasts_ms: How long; 0 for a kill, after which the keeper, or what stands for systemd here, starts it again.
        step_s: By how much a clock is wrong meanwhile.
    """

    round: Annotated[int, Field(ge=1)]
    at: Moment
    after_ms: Annotated[int, Field(ge=0, le=_LONGEST_DELAY_MS)]
    kind: Kind
    target: Target
    organisation: str = ""
    lasts_ms: Annotated[int, Field(ge=0, le=10_000)] = 0
    step_s: Annotated[int, Field(ge=-3600, le=3600)] = 0

    @property
    def label(self) -> str:
        """Its kind and target, by which faults are counted."""
        return f"{self.kind} {self.target}"

    @property
    def institution(self) -> str | None:
        """The institution whose update it may cost, None if there is none."""
        strikes_agent = self.target in ("agent", "organisation") and self.organisation in INSTITUTIONS
        return self.organisation if strikes_agent else None

    def __str__(self) -> str:
        whose = f" of {self.organisation}" if self.organisation else ""
        how_long = f" for {self.lasts_ms / 1000:g} s" if self.lasts_ms else ""
        step = f" by {self.step_s:+d} s" if self.step_s else ""
        return f"{self.label}{whose}{step}{how_long}, {self.after_ms} ms after {self.at} of round {self.round}"

    @model_validator(mode="after")
    def _check(self) -> Self:
        where = _WHERE.get(self.target, ("",))
        if self.organisation not in where:
            raise ValueError(f"{self}: expected an organisation of {', '.join(where) or 'nobody'}")
        if self.institution and (self.at not in _WHILE_OPEN or self.after_ms > _LONGEST_DELAY_WHILE_OPEN_MS):
            raise ValueError(f"{self}: would strike an institution in the next round")
        if (self.kind == "kill") == bool(self.lasts_ms) or (self.kind == "step") != bool(self.step_s):
            raise ValueError(f"{self}: a kill lasts no time, all else does; a step has a size, nothing else has")
        return self


class Schedule(_Model):
    """All faults of a run."""

    ledger: LedgerKind
    seed: int
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    faults: tuple[Fault, ...]

    def of_round(self, number: int) -> tuple[Fault, ...]:
        """Return the faults of a round."""
        return tuple(fault for fault in self.faults if fault.round == number)

    def until(self, rounds: int) -> Schedule:
        """Return the schedule of the first rounds."""
        faults = tuple(fault for fault in self.faults if fault.round <= rounds)
        return self.model_copy(update={"rounds": rounds, "faults": faults})

    def count(self) -> dict[str, int]:
        """Return how many faults there are of each kind on each target."""
        return dict(sorted(Counter(fault.label for fault in self.faults).items()))

    def dump(self) -> bytes:
        """Return it as JSON."""
        return json.dumps(self.model_dump(), indent=2).encode() + b"\n"

    @classmethod
    def load(cls, content: bytes) -> Self:
        """Read one.

        Raises:
            ScheduleError: It is none, or leaves too few members in some round.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ScheduleError(f"this is no schedule: {place or 'all of it'}: {first['msg']}") from error

    @model_validator(mode="after")
    def _check(self) -> Self:
        for fault in self.faults:
            if fault.round > self.rounds:
                raise ValueError(f"{fault}: there are {self.rounds} rounds")
            if (fault.kind, fault.target) not in MENU[self.ledger]:
                raise ValueError(f"{fault}: not on the {self.ledger} ledger")
        struck: dict[int, set[str]] = {}
        for fault in self.faults:
            if fault.institution is not None:
                for number in (fault.round, fault.round + 1) if fault.lasts_ms else (fault.round,):
                    struck.setdefault(number, set()).add(fault.institution)
        for number, names in sorted(struck.items()):
            if len(names) > 1:
                raise ValueError(f"round {number} may lose {' and '.join(sorted(names))}: too few would be left")
        return self


def draw_schedule(*, rounds: int, seed: int, ledger: LedgerKind) -> Schedule:
    """Return the schedule of a seed; that of fewer rounds is its beginning."""
    rng = random.Random(f"{ledger}/{seed}")
    faults: list[Fault] = []
    spared_but: str | None = None
    for number in range(1, rounds + 1):
        drawn: list[Fault] = []
        for _ in range(rng.choice(_FAULTS_PER_ROUND)):
            fault = _draw_fault(rng, number, ledger)
            allowed = {one.institution for one in drawn if one.institution} | ({spared_but} if spared_but else set())
            if fault.institution is None or not allowed or fault.institution in allowed:
                drawn.append(fault)
        spared_but = next((one.institution for one in drawn if one.institution and one.lasts_ms), None)
        faults += drawn
    return Schedule(ledger=ledger, seed=seed, rounds=rounds, faults=tuple(faults))


def _draw_fault(rng: random.Random, number: int, ledger: LedgerKind) -> Fault:
    kind, target = rng.choice(MENU[ledger])
    organisation = rng.choice(_WHERE.get(target, ("",)))
    steps_s = _SMALL_STEPS_S if ledger == "local" and target == "agent" else _STEPS_S
    is_open = target == "agent" or (target == "organisation" and organisation in INSTITUTIONS)
    return Fault(
        round=number,
        at=rng.choice(_WHILE_OPEN if is_open else MOMENTS),
        after_ms=rng.randrange(_LONGEST_DELAY_WHILE_OPEN_MS if is_open else _LONGEST_DELAY_MS),
        kind=kind,
        target=target,
        organisation=organisation,
        lasts_ms=0 if kind == "kill" else rng.randrange(1000, 8000),
        step_s=rng.choice(steps_s) if kind == "step" else 0,
    )
