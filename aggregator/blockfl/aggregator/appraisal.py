"""A committee member has versions appraised by their task's goal: once reports are in, or no longer awaited."""

from collections.abc import Callable

from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError, is_refused_with
from blockfl.protocol.appraising import compute_report_deadline, list_awaited, require_goal
from blockfl.protocol.catalogue import APPRAISAL, APPRAISALS, MODEL, REPORTS, ROUND
from blockfl.protocol.codes import Code
from blockfl.protocol.records import Progress
from blockfl.protocol.task import TaskSpec


class Appraiser:
    """Looks for versions to appraise, one after the other."""

    def __init__(self, ledger: Ledger, report: Callable[[str], None]) -> None:
        self._ledger = ledger
        self._report = report
        self._done: dict[str, int] = {}

    async def find_next(self, spec: TaskSpec, progress: Progress) -> int | None:
        """Return the first version that is not appraised, None if there is none, no goal, or no round yet."""
        if spec.goal is None or not progress.round or self._done.get(spec.task, -1) >= progress.version:
            return None
        if spec.task not in self._done:
            appraised = [one.version for one in await self._ledger.read_all(APPRAISALS.below(spec.task))]
            self._done[spec.task] = max(appraised, default=-1)
        # From then on one by one: all that there ever were would be more with each version.
        for following in range(self._done[spec.task] + 1, progress.version + 1):
            if await self._ledger.find(APPRAISAL.key(spec.task, following)) is None:
                return following
            self._done[spec.task] = following
        return None

    async def find_wait(self, spec: TaskSpec, version: int) -> int:
        """Return until when reports on a version are awaited, in ms; 0 when all are in."""
        model = await self._ledger.read(MODEL.key(spec.task, version))
        round_ = await self._ledger.read(ROUND.key(spec.task, max(model.round, 1)))
        told = {one.organisation for one in await self._ledger.read_all(REPORTS.below(spec.task, version))}
        is_missing = any(one not in told for one in list_awaited(round_, version))
        return compute_report_deadline(require_goal(spec), model, round_) if is_missing else 0

    async def appraise(self, spec: TaskSpec, version: int) -> None:
        """Have a version appraised, unless the contract still awaits reports."""
        try:
            await self._ledger.submit("AppraiseVersion", spec.task, str(version))
        except LedgerError as error:
            if not is_refused_with(error, Code.REPORTS_PENDING):
                raise
            return
        found = await self._ledger.read(APPRAISAL.key(spec.task, version))
        worth = "too few reports" if found.value_micro is None else f"{found.value_micro / 10**6:g}"
        self._report(f"task {spec.task}: version {version} is appraised: {require_goal(spec).metric} {worth}")
