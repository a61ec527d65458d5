"""The orderer: one thread that makes blocks of what is waiting, and tells who waits what became of it.

An idle orderer cuts a block at once; while one block is being committed the next one gathers, so batches grow with
the load and nobody waits for a timer.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final

from blockfl.fabric.embedded.ordering.committer import Committer, PreparedBlock
from blockfl.fabric.errors import BlockError, FabricError, NodeError
from blockfl.fabric.validate.orderable import Orderable

_log = logging.getLogger(__name__)
_WAITING_BYTES: Final = 32 << 20
_WAITING_COUNT: Final = 4096


@dataclass(frozen=True, kw_only=True)
class OrderedOutcome:
    """What became of an envelope: its id, its block, its place there and its validation code."""

    transaction_id: str
    code: int
    block_number: int
    index: int


@dataclass(frozen=True, kw_only=True)
class Submission:
    """An envelope that waits for its block.

    Attributes:
        envelope: the transaction, or a configuration update.
        orderable: what was found out about it.
        sequence: of the configuration under which that was.
        outcome: what became of it.
    """

    envelope: bytes
    orderable: Orderable
    sequence: int
    outcome: Future[OrderedOutcome] = field(default_factory=Future)


@dataclass(frozen=True, kw_only=True)
class ForeignBlock:
    """A block of another orderer that waits for its turn."""

    encoded: bytes
    codes: Future[tuple[int, ...]] = field(default_factory=Future)


class Orderer:
    """Feeds a committer from its one thread."""

    def __init__(self, committer: Committer, published: Callable[[PreparedBlock | None], None]) -> None:
        """Start the thread.

        Args:
            committer: nobody else may commit with it.
            published: called from the thread with every block that was committed, or with None when it stopped.
        """
        self._committer = committer
        self._published = published
        self._waiting: deque[Submission | ForeignBlock] = deque()
        self._waiting_bytes = 0
        self._wakeup = threading.Condition()
        self._closing = False
        self.failure: NodeError | None = None
        self._thread = threading.Thread(target=self._run, name="orderer", daemon=True)
        self._thread.start()

    @property
    def is_closed(self) -> bool:
        """Whether nothing is accepted any more."""
        return self._closing

    @property
    def is_full(self) -> bool:
        """Whether so much is waiting that no more should be added."""
        return self._waiting_bytes > _WAITING_BYTES or len(self._waiting) > _WAITING_COUNT

    def add(self, item: Submission | ForeignBlock) -> None:
        """Let an item wait for its turn.

        Raises:
            NodeError: the orderer has stopped.
        """
        with self._wakeup:
            self.check_running()
            self._waiting.append(item)
            self._waiting_bytes += _size(item)
            self._wakeup.notify()

    def check_running(self) -> None:
        """Raise when the orderer has stopped.

        Raises:
            NodeError: with the reason.
        """
        if self.failure is not None:
            raise NodeError(f"the node has stopped accepting: {self.failure}") from self.failure
        if self._closing:
            raise NodeError("the ledger is closed")

    def close(self) -> None:
        """Finish the block in hand, refuse what waits, end the thread."""
        with self._wakeup:
            self._closing = True
            self._wakeup.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._wakeup:
                while not self._waiting and not self._closing:
                    self._wakeup.wait()
                if self._closing:
                    break
                batch = self._cut()
            try:
                if batch:
                    self._commit(batch)
            except Exception as error:
                # From here on memory and disk may differ: only a restart, which reads the disk, goes on.
                self._stop(error, batch)
                break
        self._refuse_waiting()
        self._published(None)

    def _cut(self) -> list[Submission] | ForeignBlock:
        first = self._waiting[0]
        if isinstance(first, ForeignBlock):
            self._take()
            return first
        settings = self._committer.config.batch
        batch: list[Submission] = []
        size = 0
        while self._waiting and len(batch) < settings.max_message_count:
            item = self._waiting[0]
            if isinstance(item, ForeignBlock) or (batch and size + _size(item) > settings.preferred_max_bytes):
                break
            # A configuration has a block of its own.
            if batch and (item.orderable.is_update or batch[0].orderable.is_update):
                break
            self._take()
            # A caller that gave up before is not served; from here on giving up comes too late.
            if item.outcome.set_running_or_notify_cancel():
                batch.append(item)
                size += _size(item)
        return batch

    def _take(self) -> None:
        self._waiting_bytes -= _size(self._waiting.popleft())

    def _commit(self, batch: list[Submission] | ForeignBlock) -> None:
        if isinstance(batch, ForeignBlock):
            self._commit_foreign(batch)
            return
        if not (batch := self._renewed(batch)):
            return
        try:
            prepared = self._prepare(batch)
        except NodeError:
            raise
        except Exception as error:
            if isinstance(error, BlockError) and batch[0].orderable.is_update:
                _log.info("%s", error)
                batch[0].outcome.set_exception(error)
                return
            if len(batch) > 1:
                for submission in batch:
                    self._commit([submission])
                return
            _log.exception("a transaction was not ordered because its validation failed")
            batch[0].outcome.set_exception(
                BlockError(f"the transaction was not ordered: validating it failed unexpectedly: {error!r}")
            )
            return
        self._committer.commit(prepared)
        self._published(prepared)
        validation = prepared.validation
        for index, submission in enumerate(batch):
            _log_invalid(prepared, index)
            outcome = OrderedOutcome(
                transaction_id=validation.tx_ids[index] or submission.orderable.transaction_id,
                code=validation.codes[index],
                block_number=validation.number,
                index=index,
            )
            submission.outcome.set_result(outcome)

    def _renewed(self, batch: Sequence[Submission]) -> list[Submission]:
        """What may still be ordered under the configuration in force by now; the others are told why not."""
        sequence = self._committer.config.sequence
        renewed = []
        for submission in batch:
            try:
                if not submission.orderable.is_update and submission.sequence != sequence:
                    orderable = self._committer.verify_orderable(submission.envelope)
                    submission = replace(submission, orderable=orderable, sequence=sequence)
                renewed.append(submission)
            except NodeError:
                raise
            except Exception as error:
                refused = isinstance(error, BlockError)
                _log.log(logging.INFO if refused else logging.ERROR, "not ordered: %r", error)
                submission.outcome.set_exception(error if refused else BlockError(f"it was not ordered: {error!r}"))
        return renewed

    def _prepare(self, batch: Sequence[Submission]) -> PreparedBlock:
        if batch[0].orderable.is_update:
            return self._committer.prepare_update(batch[0].envelope)
        envelopes = [submission.envelope for submission in batch]
        return self._committer.prepare_batch(envelopes, [submission.orderable.references for submission in batch])

    def _commit_foreign(self, block: ForeignBlock) -> None:
        try:
            prepared = self._committer.prepare_block(block.encoded)
        except NodeError:
            raise
        except FabricError as error:
            block.codes.set_exception(error)
            return
        self._committer.commit(prepared)
        self._published(prepared)
        block.codes.set_result(prepared.validation.codes)

    def _stop(self, error: Exception, batch: list[Submission] | ForeignBlock) -> None:
        self.failure = error if isinstance(error, NodeError) else NodeError(f"committing failed: {error!r}")
        _log.error(
            "the node has stopped accepting: %s", self.failure, exc_info=None if error is self.failure else error
        )
        unknown = NodeError(
            f"the node has stopped accepting: {self.failure}; whether this transaction is committed shows after "
            "the restart"
        )
        futures = [batch.codes] if isinstance(batch, ForeignBlock) else [item.outcome for item in batch]
        for future in futures:
            if not future.done():
                future.set_exception(unknown)

    def _refuse_waiting(self) -> None:
        with self._wakeup:
            waiting, self._waiting = list(self._waiting), deque()
            self._closing = True
        reason = NodeError(
            f"the node has stopped accepting: {self.failure}" if self.failure else "the ledger is closed"
        )
        for item in waiting:
            if isinstance(item, ForeignBlock):
                item.codes.set_exception(reason)
            elif item.outcome.set_running_or_notify_cancel():
                item.outcome.set_exception(reason)


def _size(item: Submission | ForeignBlock) -> int:
    return len(item.encoded if isinstance(item, ForeignBlock) else item.envelope)


def _log_invalid(prepared: PreparedBlock, index: int) -> None:
    validation = prepared.validation
    if validation.reasons[index]:
        _log.info(
            "transaction %s in block %d is invalid (code %d): %s",
            validation.tx_ids[index],
            validation.number,
            validation.codes[index],
            validation.reasons[index],
        )
