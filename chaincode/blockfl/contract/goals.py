"""The transaction that compares a version with those before by its task's goal, and may end the task."""

from blockfl.contract.authority import require_committee
from blockfl.contract.certificates import select_valid
from blockfl.contract.state import State
from blockfl.protocol.appraising import appraise, check_reports, end_by_goal, require_goal
from blockfl.protocol.catalogue import APPRAISAL, CONSORTIUM, METRICS, MODEL, PROGRESS, ROUND, TASK
from blockfl.protocol.goal import Appraisal
from blockfl.protocol.records import Progress
from blockfl.protocol.task import TaskSpec


async def appraise_version(state: State, task: str, version: int) -> bytes:
    """Appraise a version once its reports are in, or the time for them is over; the first appraisal stands."""
    require_committee(await state.read(CONSORTIUM.key()), state.caller)
    spec = (await state.read(TASK.key(task))).spec
    goal = require_goal(spec)
    existing = await state.find(APPRAISAL.key(task, version))
    if existing:
        return existing.encode()
    model = await state.read(MODEL.key(task, version))
    round_ = await state.read(ROUND.key(task, max(model.round, 1)))
    previous = await state.read(APPRAISAL.key(task, version - 1)) if version else None
    # Every key is read, also where nothing is: a report that is ordered before an appraisal makes it invalid.
    found = await state.find_all([METRICS.key(task, version, one) for one in spec.institutions])
    reports = [one for one in found if one is not None]
    check_reports(goal, model, round_, reports, state.now_ms)
    enrolments = await select_valid(state, await state.find_enrolments(task, spec.institutions))
    appraisal = appraise(spec, model, reports, enrolments, previous, state.now_ms)
    await state.write(appraisal)
    progress = await state.read(PROGRESS.key(task))
    ended = end_by_goal(spec, progress, appraisal, state.caller, state.now_ms) if progress.version == version else None
    if ended:
        await state.write(ended)
    event, detail = ("TaskEnded", ended.ended.reason) if ended and ended.ended else ("VersionAppraised", str(version))
    state.announce(event, task=task, number=model.round, organisation=state.caller, detail=detail)
    return appraisal.encode()


async def find_base_appraisal(state: State, spec: TaskSpec, progress: Progress) -> Appraisal | None:
    """Return the appraisal of the version that the next round starts from, None without a goal."""
    return await state.find(APPRAISAL.key(spec.task, progress.version)) if spec.goal else None
