"""What a committee member does for the updates of an open round: has those that have arrived judged, together.

One transaction holds the verdicts on several updates, each named. When it fails, each is judged by itself, so that an
update that a member cannot judge does not hold the others up.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError, is_refused_with
from blockfl.protocol.codes import Code
from blockfl.protocol.judging import describe_verdict
from blockfl.protocol.norm_rules import MAX_JUDGED
from blockfl.protocol.records import Round, Update
from blockfl.protocol.submission import count_chunks
from blockfl.protocol.task import TaskSpec

_log = logging.getLogger(__name__)

_NOT_YET: Final = (Code.UPLOAD_INCOMPLETE, Code.CHUNK_UNAVAILABLE, Code.ROUND_CLOSED, Code.REFERENCE_PENDING)
"""Why an update is not judged at a moment."""
_VALUES: Final = 2**24
"""So many values are judged in one transaction, unless one update has more: peers give a transaction thirty seconds."""


class Judge:
    """A committee member's part in judging.

    Args:
        ledger: The member's.
        report: Called with one line for each verdict.
    """

    def __init__(self, ledger: Ledger, report: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._report = report

    async def find_incomplete(self, spec: TaskSpec, round_: Round, organisations: Sequence[str]) -> set[str]:
        """Return whose updates do not have all their chunks on the ledger yet."""
        count = count_chunks(spec)
        whole = await asyncio.gather(
            *(self._ledger.is_uploaded(round_.task, round_.round, one, count) for one in organisations)
        )
        return {one for one, there in zip(organisations, whole, strict=True) if not there}

    async def judge(self, round_: Round, dimension: int, organisations: Sequence[str]) -> list[Update]:
        """Have updates judged; return what came of it, without those that cannot be judged yet.

        Args:
            round_: An open round.
            dimension: Of each update.
            organisations: Whose updates; all their chunks are there, or the time for them is over.

        Raises:
            LedgerError: Of the first update for which it failed, when all have been tried.
        """
        judged: list[Update] = []
        failures: list[LedgerError] = []
        together = deque(_divide(sorted(organisations), dimension))
        while together:
            names = together.popleft()
            try:
                judged += await self._judge(round_, names)
            except LedgerError as error:
                _log.info("updates of %s not judged: %s", ", ".join(names), error)
                if len(names) > 1:
                    together.extend([one] for one in names)
                elif not is_refused_with(error, *_NOT_YET):
                    failures.append(error)
        if failures:
            raise failures[0]
        return judged

    async def _judge(self, round_: Round, names: Sequence[str]) -> Sequence[Update]:
        verdicts = await self._ledger.judge_update(round_.task, round_.round, *names)
        for verdict in verdicts:
            said = describe_verdict(verdict) if verdict.code else verdict.state
            self._report(f"task {round_.task}, round {round_.round}: {verdict.organisation} {said}")
        return verdicts


def _divide(organisations: Sequence[str], dimension: int) -> Iterator[Sequence[str]]:
    """Yield as many organisations at a time as are judged together."""
    count = max(1, min(MAX_JUDGED, _VALUES // dimension))
    for start in range(0, len(organisations), count):
        yield organisations[start : start + count]
