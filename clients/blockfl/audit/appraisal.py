"""How versions were compared by a task's goal, repeated from the reports on the ledger, and the task's end."""

from blockfl.audit.difference import describe_differences
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.protocol.appraising import appraise, check_reports, end_by_goal, require_goal
from blockfl.protocol.catalogue import APPRAISAL, APPRAISALS, ENROLMENT, METRICS, MODEL, PROGRESS, ROUND, WITHDRAWAL
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.goal import Appraisal
from blockfl.protocol.records import Enrolment, Progress
from blockfl.protocol.task import Task, TaskSpec


def verify_appraisals(history: History, task: Task) -> None:
    """Verify what each version was found to be worth, and that the task ended when its goal says.

    Raises:
        VerificationError: An appraisal does not follow from the reports before it, or the task's end from them.
    """
    name, endings = task.spec.task, 0
    for found in history.read_all(APPRAISALS.below(name)):
        key = APPRAISAL.key(name, found.version)
        with history.about("versions", key):
            where = f"task {name}, appraisal of version {found.version}"
            if history.count_writes(key) != 1:
                raise VerificationError(f"{where}: it was written more than once")
            past = history.before(key)
            try:
                expected = _repeat(past, task.spec, found)
            except (ProtocolError, ValueError) as error:
                raise VerificationError(f"{where}: it could not be made: {error}") from error
            if found != expected:
                raise VerificationError(
                    f"{where}: it does not follow from the reports: {describe_differences(found, expected)}"
                )
            after = history.after(key).get(PROGRESS.key(name))
            if after != _expect_progress(past.get(PROGRESS.key(name)), after, task.spec, found):
                raise VerificationError(f"{where}: the task ended, or went on, otherwise than its goal says")
            endings += after.ended is not None and after.ended.cause == "goal"
    progress = history.find(PROGRESS.key(name))
    if progress and progress.ended and progress.ended.cause == "goal" and not endings:
        raise VerificationError(f"task {name}: it ended by its goal without an appraisal that says so")


def _repeat(past: History, spec: TaskSpec, found: Appraisal) -> Appraisal:
    """Return the appraisal as the contract had to make it on this ledger, at the time that it states."""
    name, version = spec.task, found.version
    model = past.get(MODEL.key(name, version))
    round_ = past.get(ROUND.key(name, max(model.round, 1)))
    told = [past.find(METRICS.key(name, version, one)) for one in spec.institutions]
    reports = [one for one in told if one is not None]
    check_reports(require_goal(spec), model, round_, reports, found.appraised_at_ms)
    previous = past.get(APPRAISAL.key(name, version - 1)) if version else None
    return appraise(spec, model, reports, _list_valid(past, spec), previous, found.appraised_at_ms)


def _list_valid(past: History, spec: TaskSpec) -> list[Enrolment]:
    enrolments = [past.find(ENROLMENT.key(spec.task, one)) for one in spec.institutions]
    return [
        one
        for one in enrolments
        if one and not past.count_writes(WITHDRAWAL.key(one.organisation, one.certificate_digest))
    ]


def _expect_progress(before: Progress, after: Progress, spec: TaskSpec, found: Appraisal) -> Progress:
    """Return the progress that an appraisal leaves; whose transaction it was, only the progress itself says."""
    caller = after.ended.organisation if after.ended else spec.aggregator
    is_last = before.version == found.version
    ended = end_by_goal(spec, before, found, caller, found.appraised_at_ms) if is_last else None
    return ended or before
