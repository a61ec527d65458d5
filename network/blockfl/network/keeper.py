"""The keeper: starts again what ended on its own, and rotates logs, so that nobody has to be there.

One process per network, started last and stopped first. It restarts whatever was not stopped on purpose, each time a
little later when a process keeps ending. It decides nothing else; when the keeper itself is gone everything goes on,
and the next ``blockfl network up`` starts it anew.
"""

import argparse
import logging
import os
import shutil
import signal
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from blockfl.fabric.log import configure_log
from blockfl.network.errors import NetworkError
from blockfl.network.process import ProcessSpec, ProcessTable, python_command

KEEPER = "keeper"
_LOOK_S = 0.5
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_SETTLED_S = 60.0
_LOG_BYTES = 16 << 20
_KEPT_LOGS = 3

_log = logging.getLogger(__name__)


@dataclass
class _Troubles:
    """How often a process has ended lately, and when it may be started again."""

    pause_s: float = _FIRST_PAUSE_S
    due: float = 0.0
    started: float = 0.0


class Keeper:
    """Looks after the processes of one network."""

    def __init__(self, processes: ProcessTable) -> None:
        self._processes = processes
        self._troubles: dict[str, _Troubles] = {}

    def look(self, now: float) -> list[str]:
        """Start again what has ended and is due; return the names of what was started.

        Args:
            now: Seconds on any clock that only goes forward.
        """
        started = []
        for name in self._processes.names():
            if name == KEEPER or self._processes.state(name) != "crashed":
                continue
            trouble = self._troubles.setdefault(name, _Troubles())
            if trouble.started and now - trouble.started > _SETTLED_S:
                trouble.pause_s = _FIRST_PAUSE_S
            if now < trouble.due:
                continue
            try:
                restarted = self._processes.restart(name)
            except NetworkError as error:
                _log.error("%s", error)
                restarted = False
            trouble.due, trouble.started = now + trouble.pause_s, now
            trouble.pause_s = min(2 * trouble.pause_s, _LONGEST_PAUSE_S)
            if restarted:
                _log.warning("%s had ended and was started again; its log tells why", name)
                started.append(name)
        return started

    def run(self, stop: threading.Event) -> None:
        """Look again and again until told to stop."""
        while not stop.wait(_LOOK_S):
            self.look(time.monotonic())
            for name in self._processes.names():
                rotate_log(self._processes.log(name))


def rotate_log(path: Path, limit_bytes: int = _LOG_BYTES, kept: int = _KEPT_LOGS) -> bool:
    """Move a log that has grown too large aside; its process, which appends, goes on at the beginning of the file.

    What is written between the copy and the cut is lost: a few lines at most. On a full disk the log is cut all
    the same.

    Returns:
        Whether it was moved.
    """
    try:
        if path.stat().st_size <= limit_bytes:
            return False
        older = [path.with_name(f"{path.name}.{number}") for number in range(1, kept + 1)]
        for source, target in reversed(list(pairwise(older))):
            if source.exists():
                source.replace(target)
        try:
            shutil.copyfile(path, older[0])
            older[0].chmod(0o600)
        except OSError as error:
            older[0].unlink(missing_ok=True)
            _log.error("%s is cut, not kept: %s", path, error)
        os.truncate(path, 0)
    except OSError as error:
        _log.error("%s cannot be rotated: %s", path, error)
        return False
    return True


def keeper_process(directory: Path) -> ProcessSpec:
    """Return how the keeper of a network's directory is started."""
    command = python_command("blockfl.network.keeper", "--directory", str(directory.resolve()))
    return ProcessSpec(name=KEEPER, command=command, environment={})


def main() -> None:
    """Keep a network's processes until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    arguments = parser.parse_args()
    configure_log(None)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    _log.info("keeping the processes of %s", arguments.directory)
    Keeper(ProcessTable(arguments.directory)).run(stop)


if __name__ == "__main__":
    main()
