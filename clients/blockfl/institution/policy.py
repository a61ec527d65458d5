"""An institution's own policy, which its agent puts before a task's terms, and a record of what left the building.

    tasks: ["heart-*"]                    # patterns of names
    code: [<SHA-256 of the model's or the code's file>]
    rounds: 50                            # in all, of each task
    hours: ["20:00-06:00"]                # UTC; a round that is open is waited for, not skipped
    gpu: yes                              # as --gpu; no: refuse it
    shared_memory: no                     # as --shared-memory; no: refuse it

Every key is optional, and says nothing when it is absent. ``blockfl institution digest`` gives a digest for ``code``.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from blockfl.institution.errors import SettingsError
from blockfl.institution.training_limits import TrainingLimits
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.plain_yaml import read_words
from blockfl.protocol.canonical import compute_digest

_KEYS: Final = ("tasks", "code", "rounds", "hours", "gpu", "shared_memory")
_ANSWERS: Final = {"yes": True, "true": True, "no": False, "false": False}
_HOURS: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]):([0-5][0-9])")


@dataclass(frozen=True, kw_only=True)
class LocalPolicy:
    """What an institution allows; a field that is None allows everything.

    Attributes:
        tasks: Patterns of the names of tasks.
        code: SHA-256 of model files or code, as ``compute_code_digest`` gives it.
        rounds: The most updates of one task.
        hours: When training may begin, UTC, from and to; a span may go over midnight.
        gpu: Whether training may use GPUs; None: as the agent is started.
        shared_memory: Whether training may use ``/dev/shm``; None: as the agent is started.
    """

    tasks: tuple[str, ...] | None = None
    code: tuple[str, ...] | None = None
    rounds: int | None = None
    hours: tuple[tuple[time, time], ...] | None = None
    gpu: bool | None = None
    shared_memory: bool | None = None

    def choose_limits(self, limits: TrainingLimits) -> TrainingLimits:
        """Return what training may use: what the agent is started with, and what the policy says of devices.

        Raises:
            SettingsError: The agent is started with a device that the policy refuses.
        """
        for name, asked in (("gpu", limits.gpu), ("shared_memory", limits.shared_memory)):
            if asked and getattr(self, name) is False:
                raise SettingsError(
                    f"the local policy says {name}: no; leave --{name.replace('_', '-')} out, or change the policy"
                )
        return replace(
            limits,
            gpu=limits.gpu or self.gpu is True,
            shared_memory=limits.shared_memory or self.shared_memory is True,
        )

    def check_task(self, name: str) -> None:
        """Check that the institution takes part in such a task.

        Raises:
            SettingsError: It does not.
        """
        if self.tasks is not None and not any(fnmatchcase(name, pattern) for pattern in self.tasks):
            raise SettingsError(f"the local policy allows the tasks {', '.join(self.tasks)}, not {name}")

    def check_code(self, paths: Iterable[Path]) -> None:
        """Check that the institution runs this model or code.

        Raises:
            SettingsError: Its digest is none of those that are allowed.
        """
        for path in paths if self.code is not None else ():
            digest = compute_code_digest(path)
            if digest not in (self.code or ()):
                raise SettingsError(
                    f"the local policy does not allow {path}, SHA-256 {digest}: read it, and add it to code"
                )

    def find_limit(self, task: str, sent: int) -> str | None:
        """Return why no further update of a task may leave, None when one may; ``sent`` have left."""
        if self.rounds is not None and sent >= self.rounds:
            return f"the local policy allows {self.rounds} updates of {task}, and so many have left"
        return None

    def find_wait(self, now: datetime) -> str | None:
        """Return why training waits, None when it may begin; ``now`` is aware."""
        moment = now.astimezone(UTC).time().replace(tzinfo=None)
        if self.hours is None or any(_is_within(moment, *span) for span in self.hours):
            return None
        spans = ", ".join(f"{first:%H:%M}-{last:%H:%M}" for first, last in self.hours)
        return f"the local policy trains at {spans} UTC: waiting"


def _is_within(moment: time, first: time, last: time) -> bool:
    return first <= moment < last if first <= last else moment >= first or moment < last


def read_policy(path: Path) -> LocalPolicy:
    """Return the policy of a file.

    Raises:
        SettingsError: It cannot be read, or says what is no policy.
    """
    try:
        found = read_words(path)
    except LedgerError as error:
        raise SettingsError(str(error)) from error
    if not isinstance(found, dict) or not set(found) <= set(_KEYS):
        raise SettingsError(f"{path}: expected {', '.join(_KEYS)}, each at most once; nothing else can be enforced")
    tasks, code, rounds = _list(path, found, "tasks"), _list(path, found, "code"), found.get("rounds")
    if rounds is not None and not re.fullmatch(r"[0-9]{1,6}", str(rounds)):
        raise SettingsError(f"{path}: rounds: expected a whole number, got {rounds!r:.100}")
    wrong = [one for one in code or () if not re.fullmatch(r"[0-9a-f]{64}", one)]
    if wrong:
        raise SettingsError(f"{path}: code: expected SHA-256 in lower-case hex, got {wrong[0]!r:.100}")
    hours = _list(path, found, "hours")
    return LocalPolicy(
        tasks=tasks,
        code=code,
        rounds=None if rounds is None else int(rounds),
        hours=None if hours is None else tuple(_parse_span(path, one) for one in hours),
        gpu=_find_answer(path, found, "gpu"),
        shared_memory=_find_answer(path, found, "shared_memory"),
    )


def _find_answer(path: Path, found: dict[str, Any], key: str) -> bool | None:
    if key not in found:
        return None
    answer = _ANSWERS.get(str(found[key]).lower())
    if answer is None:
        raise SettingsError(f"{path}: {key}: expected yes or no, got {found[key]!r:.100}")
    return answer


def _list(path: Path, found: dict[str, Any], key: str) -> tuple[str, ...] | None:
    if key not in found:
        return None
    value = found[key]
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise SettingsError(f"{path}: {key}: expected a list, got {value!r:.100}")
    return tuple(value)


def _parse_span(path: Path, text: str) -> tuple[time, time]:
    match = _HOURS.fullmatch(text)
    if match is None:
        raise SettingsError(f"{path}: hours: expected spans such as 20:00-06:00, got {text!r:.100}")
    first_hour, first_minute, last_hour, last_minute = map(int, match.groups())
    return time(first_hour, first_minute), time(last_hour, last_minute)


def compute_code_digest(path: Path) -> str:
    """Return SHA-256 of a file; of a directory, that of the names and digests of all files in it.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        if not path.is_dir():
            return compute_digest(path.read_bytes())
        files = sorted(one for one in path.rglob("*") if one.is_file() and "__pycache__" not in one.parts)
        listed = "".join(f"{compute_digest(one.read_bytes())}  {one.relative_to(path)}\n" for one in files)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error
    return compute_digest(listed.encode())


class Departures:
    """The record of all that left the building, one JSON object a line; the agent only adds to it.

    Args:
        path: The file; None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def add(self, what: str, task: str, round: int, **details: Any) -> None:
        """Record what has just left.

        Raises:
            SettingsError: The file cannot be written.
        """
        if self._path is None:
            return
        at = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"at": at, "what": what, "task": task, "round": round, **details}, sort_keys=True)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise SettingsError(f"{self._path}: what leaves cannot be recorded ({error.strerror})") from error

    def count_updates(self, task: str) -> int:
        """Return in how many rounds an update of a task has left."""
        if self._path is None or not self._path.exists():
            return 0
        rounds = set()
        with self._path.open(encoding="utf-8") as lines:  # line by line: the file grows with each round
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:  # a line that a crash has cut off
                    continue
                if entry.get("what") == "update" and entry.get("task") == task:
                    rounds.add(entry.get("round"))
        return len(rounds)
