"""How a round opened, repeated from what was committed before it: base, committee, participants, terms, deadlines.

Which samples, certificate and opening key count is what was on the ledger when the opening was committed, whatever came
later. When it was opened is the round's own word.
"""

from blockfl.audit.difference import describe_differences
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.protocol.appraising import check_appraised
from blockfl.protocol.catalogue import (
    APPRAISAL,
    COMMITTEE_KEY,
    CONSORTIUM,
    ENROLMENT,
    MODEL,
    PROGRESS,
    ROUND,
    SETTLEMENT,
    STANDING,
    TASK,
    WITHDRAWAL,
)
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.records import Consortium, Enrolment, Progress, Round
from blockfl.protocol.reputation import list_eligible
from blockfl.protocol.round import list_candidates, open_round
from blockfl.protocol.task import Task, TaskSpec
from blockfl.protocol.terms import list_recent_versions


def verify_opening(history: History, task: Task, number: int) -> None:
    """Verify that a round opened when it could, with what followed from the records before it, and with nothing else.

    Raises:
        VerificationError: It did not.
    """
    key = ROUND.key(task.spec.task, number)
    where = f"task {task.spec.task}, round {number}"
    if not history.is_older(TASK.key(task.spec.task), key):
        raise VerificationError(f"{where}: it could not be opened: the task did not exist yet")
    opened = history.after(key).get(key)
    try:
        expected = _repeat_opening(history.before(key), task, opened)
    except (VerificationError, ProtocolError, ValueError) as error:
        raise VerificationError(f"{where}: it could not be opened: {error}") from error
    if opened != expected:
        raise VerificationError(
            f"{where}: what it opened with does not follow from the records before it: "
            f"{describe_differences(opened, expected)}"
        )


def verify_progress(ledger: History, task: str) -> Progress:
    """Verify that a task's progress names the last of its rounds and versions.

    Returns:
        The progress.

    Raises:
        VerificationError: It names others.
    """
    progress = ledger.get(PROGRESS.key(task))
    latest = ledger.find(MODEL.key(task, progress.version))
    has_opened = not progress.round or ledger.count_writes(ROUND.key(task, progress.round))
    following = ROUND.key(task, progress.round + 1), MODEL.key(task, progress.version + 1)
    is_last = has_opened and not any(ledger.count_writes(key) for key in following)
    if not is_last or latest is None or latest.digest != progress.model_digest:
        raise VerificationError(
            f"task {task}: its progress, round {progress.round} and version {progress.version}, is not that of its "
            "rounds and versions"
        )
    return progress


def _repeat_opening(past: History, task: Task, opened: Round) -> Round:
    """Return the round as the contract had to open it on this ledger, at the time that the round states."""
    spec = task.spec
    consortium = past.get(CONSORTIUM.key())
    progress = verify_progress(past, spec.task)
    previous = past.find(ROUND.key(spec.task, progress.round))
    keys = [past.find(COMMITTEE_KEY.key(one)) for one in consortium.committee]
    enrolments = _list_valid(past, spec, consortium)
    if spec.economics:
        _require_settled(past, previous)
        enrolments = _list_eligible(past, spec, enrolments, opened.round)
    if spec.goal:
        check_appraised(spec, progress, past.find(APPRAISAL.key(spec.task, progress.version)))
    latest = [past.get(MODEL.key(spec.task, one)) for one in list_recent_versions(spec, progress.version)]
    return open_round(
        task,
        progress,
        previous,
        consortium,
        [one for one in keys if one is not None],
        enrolments,
        number=opened.round,
        now_ms=opened.opened_at_ms,
        earlier=[past.get(ROUND.key(spec.task, one.round)) for one in latest],
    )


def _list_valid(past: History, spec: TaskSpec, consortium: Consortium) -> list[Enrolment]:
    """Return the enrolments that stood, without those whose certificate was withdrawn."""
    found = [past.find(ENROLMENT.key(spec.task, one)) for one in list_candidates(spec, consortium)]
    return [
        one for one in found if one and not past.count_writes(WITHDRAWAL.key(one.organisation, one.certificate_digest))
    ]


def _list_eligible(past: History, spec: TaskSpec, enrolments: list[Enrolment], number: int) -> list[Enrolment]:
    """Return the enrolments of those that had a stake and were not suspended, and of referees, who need none."""
    found = [past.find(STANDING.key(spec.task, one.organisation)) for one in enrolments]
    standings = {one.organisation: one for one in found if one}
    eligible = list_eligible(standings, number=number, minimum=spec.minimum_accepted)
    return [one for one in enrolments if one.organisation in (*eligible, *spec.referees)]


def _require_settled(past: History, previous: Round | None) -> None:
    if previous is None or previous.state == "failed":
        return
    if not past.count_writes(SETTLEMENT.key(previous.task, previous.round)):
        raise VerificationError(f"round {previous.round} was not settled")
