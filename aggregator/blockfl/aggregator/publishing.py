"""What a committee member does for a closed round: bring the sum, vote for the model that it makes, publish, give up.

The model that the member votes for is derived here from the attested sum; nobody's word is taken for it. Until the
members agree the sum stays with them, so that nobody can read that of a round that is given up.
"""

import asyncio
import logging
from collections.abc import Callable

from blockfl.aggregator.summing import compute_round_sum
from blockfl.ledger.client import Ledger, is_refused_with
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.lineage import compute_model, obtain_model
from blockfl.ledger.store import ModelStore
from blockfl.ledger.transfer import fetch_sum, upload_blob, upload_sum
from blockfl.protocol.blob import split_blob
from blockfl.protocol.canonical import compute_digest
from blockfl.protocol.catalogue import ROUND, VOTES
from blockfl.protocol.codes import Code
from blockfl.protocol.hpke import OpeningKey
from blockfl.protocol.publication import find_agreed
from blockfl.protocol.records import Blob, Round, Vote
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
        self._voted: dict[str, int] = {}
        self._kept: dict[str, set[str]] = {}

    async def sum(self, task: Task, round_: Round) -> None:
        """Bring the round's sum, and have the committee attest it."""
        name, number = task.spec.task, round_.round
        total = await compute_round_sum(self._ledger, round_, task.spec, self._opening_key, self._on_opened(round_))
        blob, chunks = split_blob(total)
        await upload_sum(self._ledger, name, number, blob, chunks)
        await self._ledger.attest_aggregate(name, number, blob)
        self._report(f"task {name}, round {number}: summed {len(round_.accepted)} updates")

    async def vote(self, task: Task, round_: Round, attested: Blob) -> None:
        """Vote for the model that the attested sum makes, derived here: nobody's word is taken for it."""
        name, number = task.spec.task, round_.round
        if self._ledger.organisation not in [one.organisation for one in round_.committee]:
            return  # this member had no opening key when the round opened
        if self._ledger.organisation in await self._read_votes(round_):
            return
        base = await obtain_model(self._ledger, self._store, task, round_.base_version)
        total = await fetch_sum(self._ledger, name, number, attested)
        content = await asyncio.to_thread(
            compute_model, task.spec, base, total, len(round_.accepted), round_.scale, round_.divisor
        )
        self._store.put(content)
        digest = compute_digest(content)
        # Others can be computed from the ledger again.
        self._kept[name] = {task.spec.initial_model.digest, compute_digest(base), digest}
        self._store.prune(set().union(*self._kept.values()))
        await self._ledger.publish_model(name, number, digest)
        self._report(f"task {name}, round {number}: voted for {digest[:16]}…")
        self._voted[name] = number
        await self.tell_of_vote(name)

    async def is_agreed(self, round_: Round) -> bool:
        """Whether the threshold of members have voted for the same model, so that the round is to be published."""
        return find_agreed(round_, await self._read_votes(round_)) is not None

    async def publish(self, round_: Round, attested: Blob) -> None:
        """Let everybody read the sum of a round that the committee agrees on, and make the version."""
        name, number = round_.task, round_.round
        digest = find_agreed(round_, await self._read_votes(round_))
        if digest is None:
            return
        _, chunks = split_blob(await fetch_sum(self._ledger, name, number, attested))
        await upload_blob(self._ledger, name, attested, chunks)
        await self._ledger.publish_model(name, number, digest)

    async def _read_votes(self, round_: Round) -> dict[str, Vote]:
        votes = await self._ledger.read_all(VOTES.below(round_.task, round_.round))
        return {one.organisation: one for one in votes}

    async def tell_of_vote(self, name: str) -> None:
        """Report what has become of the round that this member voted on last, once it is over."""
        if name not in self._voted:
            return
        round_ = await self._ledger.read(ROUND.key(name, self._voted[name]))
        if round_.state == "published":
            self._report(f"task {name}, round {round_.round}: published version {round_.base_version + 1}")
        if round_.state != "closed":
            del self._voted[name]

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
