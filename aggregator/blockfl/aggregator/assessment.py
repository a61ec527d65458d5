"""What a committee member does where a task measures effect on rows: try each accepted update, and say what it found.

The model that is tried, the base with one institution's update, exists in this process and in the one that evaluates
it, and nowhere else. The aggregator's command brings the ``Evaluator``: the member's own rows, in a process
that the kernel confines.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Protocol

import numpy as np

from blockfl.aggregator.summing import fetch_opening
from blockfl.ledger.client import Ledger
from blockfl.ledger.lineage import obtain_model
from blockfl.ledger.store import ModelStore
from blockfl.protocol.assessment import MAX_LOSS_MICRO, Assessment
from blockfl.protocol.catalogue import HEADER
from blockfl.protocol.dtype import Vector
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round
from blockfl.protocol.table import Table
from blockfl.protocol.task import Task
from blockfl.protocol.version import decode_version


class EvaluationError(Exception):
    """A member's rows cannot be used; the text says why."""


class Evaluator(Protocol):
    """What measures a model on the member's own rows."""

    async def measure_loss(self, values: Vector, table: Table | None) -> float | None:
        """Return the mean loss of a model of shape (d,), None if it is not finite.

        Args:
            values: The model's.
            table: The task's columns, by which the rows are read; None where the task names none.

        Raises:
            EvaluationError: The rows cannot be used.
        """


class Assessor:
    """A committee member's part in measuring effect.

    Args:
        ledger: The member's.
        opening_key: The member's private key.
        store: Where models are kept.
        evaluator: Has the member's rows.
        report: Called with one line for each thing that was done.
    """

    def __init__(
        self,
        ledger: Ledger,
        opening_key: OpeningKey,
        store: ModelStore,
        evaluator: Evaluator,
        report: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._opening_key = opening_key
        self._store = store
        self._evaluator = evaluator
        self._report = report
        self._base: tuple[str, Vector, int] | None = None

    async def assess(self, task: Task, round_: Round, organisations: Collection[str]) -> bool:
        """Measure these organisations' accepted updates, one after the other, and put each result on the ledger.

        Returns:
            Whether anything was put there. Where the rows cannot be used that is reported, and the round goes on
            without this member's word.

        Raises:
            LedgerError: When a chunk or a model cannot be read, or the contract refuses.
            ProtocolError: When an accepted update cannot be opened.
        """
        try:
            await self._assess(task, round_, organisations)
        except EvaluationError as error:
            self._report(f"task {round_.task}, round {round_.round}: no loss is measured: {error}")
            return False
        return bool(organisations)

    async def _assess(self, task: Task, round_: Round, organisations: Collection[str]) -> None:
        for organisation in organisations:
            started = time.perf_counter()
            base, base_loss = await self._obtain_base(task, round_)
            signed = await self._ledger.read(HEADER.key(round_.task, round_.round, organisation))
            opening = await fetch_opening(self._ledger, signed, self._opening_key)
            part = round_.participant(organisation)
            tried = add_update(base, opening.values, round_.scale, part.weight if part else 1)
            assessment = Assessment(
                task=round_.task,
                round=round_.round,
                organisation=organisation,
                member=self._ledger.organisation,
                base_loss_micro=base_loss,
                loss_micro=count_loss(await self._evaluator.measure_loss(tried, task.spec.table)),
                assessed_at_ms=0,
            )
            await self._ledger.assess_update(assessment)
            self._report(
                f"task {round_.task}, round {round_.round}: the loss with the update of {organisation} is "
                f"{assessment.loss_micro / 10**6:.4f}, {assessment.rise_micro / 10**6:+.4f} "
                f"({time.perf_counter() - started:.2f} s)"
            )

    async def _obtain_base(self, task: Task, round_: Round) -> tuple[Vector, int]:
        """Return the round's base model and its loss, measured once."""
        if self._base is None or self._base[0] != round_.base_digest:
            content = await obtain_model(self._ledger, self._store, task, round_.base_version)
            values = (await asyncio.to_thread(decode_version, task.spec, content)).model
            self._base = (
                round_.base_digest,
                values,
                count_loss(await self._evaluator.measure_loss(values, task.spec.table)),
            )
        return self._base[1:]


def add_update(base: Vector, values: Values, scale: int, weight: int) -> Vector:
    """Return the base with one update alone: base + x · 2^−s / ω, float32 of shape (d,)."""
    moved: Vector = (base + np.ldexp(values.astype(np.float64), -scale) / weight).astype(np.float32)
    return moved


def count_loss(loss: float | None) -> int:
    """Return a loss in millionths; the largest there is for one that is not finite, or larger."""
    if loss is None or not np.isfinite(loss):
        return MAX_LOSS_MICRO
    return max(-MAX_LOSS_MICRO, min(MAX_LOSS_MICRO, round(10**6 * loss)))
