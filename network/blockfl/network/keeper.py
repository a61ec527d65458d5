"""The keeper: starts again what ended on its own, and rotates logs, so that nobody has to be there.

One process per network, started last and stopped first. It restarts a process that was not stopped on purpose, each
time a little later when a process keeps ending, and it ends an ordering node that has work and makes no progress. It
decides nothing else; when the keeper itself is gone everything goes on, and the next ``blockfl network up`` starts it
anew.
"""

import argparse
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from blockfl.fabric.log import configure_log
from blockfl.network.errors import NetworkError
from blockfl.network.node import OPERATIONS_VARIABLES, NodeKind, node_name
from blockfl.network.process import ProcessSpec, ProcessTable, python_command
from blockfl.network.stall import NOTED_S, OrderingState, StallWatch, read_ordering_state

KEEPER = "keeper"
_LOOK_S = 0.5
_ASK_ORDERING_S = 5.0
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
    """Looks after the processes of one network.

    Args:
        processes: Those of the network.
        read_state: How an ordering node's state is read from its own and its peer's operations address.
        clock: Gives seconds since 1970.
    """

    def __init__(
        self,
        processes: ProcessTable,
        read_state: Callable[[str, str | None], OrderingState | None] = read_ordering_state,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._processes = processes
        self._read_state = read_state
        self._clock = clock
        self._troubles: dict[str, _Troubles] = {}
        self._watches: dict[str, StallWatch] = {}
        self._asked = -_ASK_ORDERING_S

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

    def look_at_ordering(self, now: float) -> list[str]:
        """End ordering nodes that have work and make no progress, so that they begin anew; return their names.

        Args:
            now: As in ``look``.
        """
        if now - self._asked < _ASK_ORDERING_S:
            return []
        self._asked, ended = now, []
        for name, state in self._read_states():
            watch = self._watches.setdefault(name, StallWatch())
            stalled_s = watch.look(now, self._clock(), state)
            if stalled_s is not None:
                _log.warning("%s made no progress for %.0f s, and begins anew: %s", name, stalled_s, state.describe())
                self._processes.end([name])
                ended.append(name)
            self._note_stall(name, watch.stalled_s, state)
        return ended

    def _note_stall(self, name: str, stalled_s: float, state: OrderingState) -> None:
        """Leave a note for ``blockfl network status`` while a node makes no progress, and take it back after that."""
        text = ""
        if stalled_s >= NOTED_S:
            text = (
                f"has made no progress for {stalled_s:.0f} s: {state.describe()}; the keeper has it begin anew in time"
            )
        if not text and not self._processes.read_note(name):
            return
        try:
            self._processes.take_note(name, text)
        except NetworkError as error:
            _log.error("%s", error)

    def _read_states(self) -> Iterator[tuple[str, OrderingState]]:
        """Yield the ordering nodes that run here and tell their state."""
        for name in self._processes.names():
            address = self._find_operations(name, "orderer")
            if address is not None and self._processes.state(name) == "running":
                organisation = name.removeprefix(node_name("orderer", ""))
                state = self._read_state(address, self._find_operations(node_name("peer", organisation), "peer"))
                if state is not None:
                    yield name, state

    def _find_operations(self, name: str, kind: NodeKind) -> str | None:
        """Return the operations address of a node of a kind, None if there is no such process."""
        return self._processes.read_environment(name).get(OPERATIONS_VARIABLES[kind])

    def run(self, stop: threading.Event) -> None:
        """Look again and again until told to stop."""
        while not stop.wait(_LOOK_S):
            self.look(time.monotonic())
            self.look_at_ordering(time.monotonic())
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
