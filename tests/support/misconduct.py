"""Institutions that cheat in chosen rounds and are honest in the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from blockfl.fabric.client.stages import Committed
from blockfl.institution.agent import InstitutionAgent
from blockfl.institution.encoder import BoundedEncoder
from blockfl.institution.errors import TrainingError
from blockfl.institution.outbox import Outbox
from blockfl.institution.run import InstitutionSettings
from blockfl.institution.step import Report
from blockfl.institution.training import TrainingService
from blockfl.institution.vector import Vector
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.ledger.store import ModelStore
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.metrics import Metrics
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round, SignedHeader
from blockfl.protocol.submission import sign_header

Misconduct = Literal["zeros", "scaled", "absent", "equivocates"]
Plan = Mapping[int, Misconduct]
"""What an institution does in which round."""


def parse_misconduct(arguments: Sequence[str]) -> Plan:
    """Read ``KIND:ROUND,ROUND,…`` as often as it is given."""
    plan: dict[int, Misconduct] = {}
    for argument in arguments:
        word, _, rounds = argument.partition(":")
        (kind,) = (one for one in get_args(Misconduct) if one == word)
        plan |= {int(number): kind for number in rounds.split(",")}
    return plan


class MisbehavingEncoder:
    """Sends nothing but zeros, too much of everything, or no update at all."""

    def __init__(self, plan: Plan, seed: int | None) -> None:
        self._plan = plan
        self._honest = BoundedEncoder(seed)

    def encode(self, delta: Vector, round_: Round, weight: int) -> Values:
        values = self._honest.encode(delta, round_, weight)
        match self._plan.get(round_.round):
            case "zeros":
                return np.zeros_like(values)
            case "scaled":
                return (np.sign(values) * 32767).astype(np.int16)
            case "absent":
                raise TrainingError("stays away")
        return values


class EquivocatingLedger(Ledger):
    """Signs and submits a second header before the first one's update can be judged."""

    def __init__(self, profile: ConnectionProfile, plan: Plan) -> None:
        super().__init__(profile)
        self._plan = plan

    async def submit_update(self, signed: SignedHeader, report: Metrics | None = None) -> Committed:
        first = await super().submit_update(signed, report)
        if self._plan.get(signed.header.round) == "equivocates":
            other = signed.header.model_copy(update={"payload_digest": compute_digest(b"another update")})
            await super().submit_update(sign_header(other, self.signer.sign))
        return first


async def run_misbehaving_institution(
    settings: InstitutionSettings, training: TrainingService, plan: Plan, report: Report
) -> None:
    """Take part in a task as the product's agent does, but for what is planned."""
    async with EquivocatingLedger(ConnectionProfile.load(settings.profile), plan) as ledger:
        await InstitutionAgent(
            ledger,
            training,
            ModelStore(settings.directory / "models"),
            Outbox(settings.directory / "outbox"),
            settings.agent,
            encoder=MisbehavingEncoder(plan, settings.agent.seed),
            report=report,
        ).run()
