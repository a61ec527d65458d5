"""What a committee member does for a closed round: bring the sum, vote for the model that it makes, publish, give up.

The model that the member votes for is derived here from the attested sum; nobody's word is taken for it. Until the
members agree the sum stays with them, so that nobody can read that of a round that is given up.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from blockfl.aggregator.summing import EarlySum, compute_round_sum
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError, is_refused_with
from blockfl.ledger.lineage import compute_model, obtain_model
from blockfl.ledger.store import ModelStore
from blockfl.ledger.transfer import fetch_sum, upload_blob, upload_sum
from blockfl.protocol.blob import cut_chunks, split_blob
from blockfl.protocol.catalogue import ROUND
from blockfl.protocol.codes import Code
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.records import Blob, Round
from blockfl.protocol.status import TaskStatus
from blockfl.protocol.task import Task

_log = logging.getLogger(__name__)


class Publisher:
    """A committee member's part in publishing.

    Args:
        ledger: The member's.
        opening_key: The member's private key.
        store: Where models are kept.
        report: Called with one line for each thing that was done.
    """

    def __init__(
        self, ledger: Ledger, opening_key: OpeningKey, store: ModelStore, report: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._opening_key = opening_key
        self._store = store
        self._report = report
        self._derived: dict[str, tuple[tuple[str, int, int, str], str]] = {}
        self._total: tuple[str, bytes] | None = None
        self._kept: dict[str, set[str]] = {}
        self._early: dict[str, EarlySum] = {}

    async def prepare(self, task: Task, round_: Round, accepted: Sequence[str]) -> None:
        """Begin to add up what is accepted so far, if it is this member that brings the sum when all goes well."""
        if task.spec.aggregator == self._ledger.organisation:
            early = self._early.setdefault(round_.task, EarlySum(self._ledger, self._opening_key))
            await early.extend(round_, task.spec, accepted, self._on_opened(round_))

    async def stop(self) -> None:
        """Stop what goes on in the background."""
        for early in self._early.values():
            await early.drop()

    async def sum(self, task: Task, round_: Round) -> None:
        """Bring the round's sum, and have the committee attest it."""
        name, number = task.spec.task, round_.round
        total = await compute_round_sum(
            self._ledger, round_, task.spec, self._opening_key, self._on_opened(round_), self._early.pop(name, None)
        )
        blob, chunks = split_blob(total)
        self._total = blob.digest, total
        if len(chunks) == 1:
            await self._ledger.attest_aggregate(name, number, blob, *chunks)
        else:
            await upload_sum(self._ledger, name, number, blob, chunks)
            await self._ledger.attest_aggregate(name, number, blob)
        self._report(f"task {name}, round {number}: summed {len(round_.accepted)} updates")

    async def derive(self, task: Task, round_: Round, attested: Blob) -> str | None:
        """Return the digest of the model that the attested sum makes, derived here once: nobody's word is taken for it.

        None where this member had no opening key when the round opened, and so has no vote.
        """
        name, number = task.spec.task, round_.round
        if self._ledger.organisation not in [one.organisation for one in round_.committee]:
            return None
        place = name, number, round_.base_version, attested.digest
        if name not in self._derived or self._derived[name][0] != place:
            base = await obtain_model(self._ledger, self._store, task, round_.base_version)
            total = await self._fetch_total(round_, attested)
            content = await asyncio.to_thread(
                compute_model, task.spec, base, total, len(round_.accepted), round_.scale, round_.divisor
            )
            digest = await asyncio.to_thread(self._store.put, content)
            # Others can be computed from the ledger again.
            self._kept[name] = {task.spec.initial_model.digest, round_.base_digest, digest}
            self._store.prune(set().union(*self._kept.values()))
            self._derived[name] = place, digest
        return self._derived[name][1]

    async def vote(self, round_: Round, digest: str) -> None:
        """Vote for a model that was derived here."""
        name, number = round_.task, round_.round
        await self._ledger.publish_model(name, number, digest)
        self._report(f"task {name}, round {number}: voted for {digest[:16]}…")

    async def publish(self, round_: Round, attested: Blob, agreed: str) -> None:
        """Let everybody read the sum of a round whose model the committee agrees on, and make the version."""
        chunks = cut_chunks(await self._fetch_total(round_, attested))
        if len(chunks) == 1:
            await self._ledger.publish_model(round_.task, round_.round, agreed, *chunks)
            return
        await upload_blob(self._ledger, round_.task, attested, chunks)
        await self._ledger.publish_model(round_.task, round_.round, agreed)

    async def _fetch_total(self, round_: Round, attested: Blob) -> bytes:
        """Return the attested sum; the last one is kept until its round is over."""
        if self._total is None or self._total[0] != attested.digest:
            self._total = attested.digest, await fetch_sum(self._ledger, round_.task, round_.round, attested)
        return self._total[1]

    async def tell_of_vote(self, status: TaskStatus) -> None:
        """Report what has become of the last round that this member derived a model for, once it is over."""
        name = status.progress.task
        if status.round is not None and status.round.state in ("published", "failed") and name in self._early:
            await self._early.pop(name).drop()
        if name not in self._derived:
            return
        (_, number, base_version, _), digest = self._derived[name]
        progress = status.progress
        if progress.round > number and (progress.version, progress.model_digest) == (base_version + 1, digest):
            state = "published"  # what was derived here is what the next round begins with
        elif status.round is not None and status.round.round == number:
            state = status.round.state
        else:
            state = (await self._ledger.read(ROUND.key(name, number))).state
        if state == "published":
            self._report(f"task {name}, round {number}: published version {base_version + 1}")
        if state != "closed":
            del self._derived[name]
            self._total = None

    async def abandon(self, round_: Round) -> bool:
        """Give a round up; return whether it is over."""
        try:
            await self._ledger.abandon_round(round_.task, round_.round)
        except LedgerError as error:
            if not is_refused_with(error, Code.ALREADY_SETTLED, Code.PUBLISH_PENDING, Code.AGREED):
                raise
            _log.info("round %d not abandoned: %s", round_.round, error)
            return is_refused_with(error, Code.ALREADY_SETTLED)
        self._report(f"task {round_.task}, round {round_.round}: abandoned, it was not published in time")
        return True

    def _on_opened(self, round_: Round) -> Callable[[str], None]:
        def progress(organisation: str) -> None:
            _log.info("task %s, round %d: opened the update of %s", round_.task, round_.round, organisation)

        return progress
