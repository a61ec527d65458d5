"""Processes that belong to a network: started apart from the terminal, remembered by pid, stopped by pid.

Each has a log and a record ``run/<name>.json`` with pid and birth, so that a pid that now belongs to somebody else is
never signalled, and with what it was started with, so that it can be started again. Environments hold no secrets.
A process's birth is the machine's start and the ticks since then: no clock, which somebody may set.
"""

import contextlib
import errno
import fcntl
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blockfl.fabric.log import LOG_FORMAT_VARIABLE
from blockfl.network.errors import NetworkError

State = Literal["running", "stopped", "crashed"]
_NEVER = "0/0"
_LOG_LINES = 15
_LOG_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """How one process is started."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


class ProcessTable:
    """The processes of one network directory."""

    def __init__(self, directory: Path) -> None:
        self._run = directory / "run"
        self._logs = directory / "logs"

    def log(self, name: str) -> Path:
        """Return the path of a process's log."""
        return self._logs / f"{name}.log"

    def names(self) -> list[str]:
        """Return the names of all processes that were ever started here."""
        return sorted(path.stem for path in self._run.glob("*.json"))

    def start(self, spec: ProcessSpec) -> bool:
        """Start a process unless it runs already.

        Returns:
            Whether it was started now.
        """
        self._run.mkdir(parents=True, exist_ok=True)
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if self.find(spec.name) is not None:
                return False
            with _spawned(spec, self.log(spec.name)) as pid:
                record = _Record(
                    pid=pid,
                    birth=_read_birth(pid) or _NEVER,
                    stopped=False,
                    command=list(spec.command),
                    environment=dict(spec.environment),
                )
                self._write(spec.name, record)
        return True

    def restart(self, name: str) -> bool:
        """Start a process that has ended on its own as it was started before.

        Returns:
            Whether it was started now: not if it runs, was stopped on purpose, or was never started.
        """
        record = self._read(name)
        if record is None or record.stopped:
            return False
        return self.start(ProcessSpec(name=name, command=record.command, environment=record.environment))

    def replace(self, specs: Sequence[ProcessSpec]) -> None:
        """Start processes; those that run already, and were started otherwise, end first, all at once."""
        self.stop([spec.name for spec in specs if self._differs(spec)])
        for spec in specs:
            self.start(spec)

    def _differs(self, spec: ProcessSpec) -> bool:
        record = self._read(spec.name)
        return record is not None and (record.command, record.environment) != (
            list(spec.command),
            dict(spec.environment),
        )

    def signal(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process, if it runs."""
        process = self.find(name)
        if process is not None:
            _signal(process, number)

    def find(self, name: str) -> psutil.Process | None:
        """Return the running process, or None."""
        record = self._read(name)
        if record is None:
            return None
        _reap(record.pid)
        try:
            process = psutil.Process(record.pid)
        except psutil.Error:
            return None
        return process if _read_birth(record.pid) == record.birth else None

    def state(self, name: str) -> State:
        """Return whether the process runs, was stopped on purpose, or is gone without that."""
        if self.find(name) is not None:
            return "running"
        record = self._read(name)
        return "stopped" if record is None or record.stopped else "crashed"

    def stop(self, names: Sequence[str], timeout_s: float = 15.0) -> list[str]:
        """Ask processes to end, and end those that do not within the timeout.

        Returns:
            The names of those that ran.
        """
        for name in names:
            record = self._read(name) if self.find(name) is not None else None
            if record is not None:
                self._write(name, record.model_copy(update={"stopped": True}))
        return self.end(names, timeout_s)

    def end(self, names: Sequence[str], timeout_s: float = 15.0) -> list[str]:
        """End processes as ``stop`` does, but not for good: the keeper starts them again.

        Returns:
            The names of those that ran.
        """
        running = {name: process for name in names if (process := self.find(name)) is not None}
        for process in running.values():
            _signal(process, signal.SIGTERM)
        _, alive = psutil.wait_procs(list(running.values()), timeout=timeout_s)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=5)
        return sorted(running)

    def tail(self, name: str, lines: int = _LOG_LINES) -> str:
        """Return the last lines of a process's log."""
        path = self.log(name)
        if not path.exists():
            return ""
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            text = log.read().decode(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def read_environment(self, name: str) -> Mapping[str, str]:
        """Return what a process was started with, besides what every process inherits; empty if it never was."""
        record = self._read(name)
        return {} if record is None else record.environment

    def take_note(self, name: str, text: str) -> None:
        """Keep what is to be said of a process beside what it says itself; "" takes it back.

        Raises:
            NetworkError: The disk takes no note.
        """
        path = self._run / f"{name}.note"
        try:
            if text:
                _replace(path, text)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise NetworkError(_no_note(path, name, error)) from error

    def read_note(self, name: str) -> str:
        """Return what is to be said of a process, "" if nothing is."""
        try:
            return (self._run / f"{name}.note").read_text()
        except OSError:
            return ""

    def require_running(self, name: str) -> None:
        """Check that a process still runs.

        Raises:
            NetworkError: With its last log lines, when it does not.
        """
        if self.find(name) is None:
            raise NetworkError(f"{name} ended unexpectedly; the last lines of {self.log(name)}:\n{self.tail(name)}")

    def _read(self, name: str) -> "_Record | None":
        try:
            return _Record.model_validate_json((self._run / f"{name}.json").read_bytes())
        except (OSError, ValidationError):
            return None

    def _write(self, name: str, record: "_Record") -> None:
        path = self._run / f"{name}.json"
        try:
            _replace(path, record.model_dump_json())
        except OSError as error:
            raise NetworkError(_no_note(path, name, error)) from error

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep two from starting the same process: a command and the keeper."""
        with (self._run / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


_Word = Annotated[str, Field(pattern=r"^[^\x00]*$")]
"""What a system can take as an argument."""


class _Record(BaseModel):
    """What is remembered of a process."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    pid: Annotated[int, Field(ge=1, lt=2**31)]
    birth: Annotated[str, Field(pattern=r"^[0-9a-f-]+/[0-9]+$")]
    stopped: bool
    command: Annotated[list[_Word], Field(min_length=1)]
    environment: dict[_Word, _Word]


def require_unused(directory: Path) -> None:
    """Check that no process of this user writes below a directory, whether it is remembered or not.

    Raises:
        NetworkError: Naming those that do.
    """
    below = f"{directory.resolve()}/"
    writers = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and any(
                one.path.startswith(below) and one.mode != "r" for one in process.open_files()
            ):
                writers.append(f"{process.name()}, pid {process.pid}")
    if writers:
        raise NetworkError(
            f"{directory} is in use by {'; '.join(writers)}; end them first: blockfl network stop, if it started them"
        )


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


# Until it is told to go on, nothing of the program runs; if nobody can tell it any more, it ends. It keeps no
# directory of the caller's, where Python would look for modules, and which could not be unmounted.
_WAIT_FOR_GO = 'cd / && read -r go && exec "$@" </dev/null'
_DEFAULT_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGPIPE, signal.SIGTERM, signal.SIGXFSZ)


@contextlib.contextmanager
def _spawned(spec: ProcessSpec, log: Path) -> Iterator[int]:
    """Start a process in a session of its own, so that it outlives terminal and command; yield its pid.

    The program begins when the caller has taken note of the pid: no process runs that nobody remembers, wherever the
    caller is killed. It inherits no open file (a lock of the caller's would be held, a pipe stay open, until it ends),
    and no signal that the caller ignores.
    """
    _require_program(spec)
    environment = {**_clean_environment(), **spec.environment}
    command = ["/bin/sh", "-c", _WAIT_FOR_GO, "sh", *spec.command]
    ear, mouth = os.pipe()
    try:
        with log.open("ab") as output:
            actions: list[tuple[int, ...]] = [
                (os.POSIX_SPAWN_DUP2, number, to) for to, number in enumerate((ear, output.fileno()))
            ]
            actions.append((os.POSIX_SPAWN_DUP2, output.fileno(), 2))
            actions += [(os.POSIX_SPAWN_CLOSE, number) for number in _list_inheritable_files()]
            try:
                pid = os.posix_spawn(
                    command[0],
                    command,
                    environment,
                    file_actions=actions,
                    setsid=True,
                    setsigmask=(),
                    setsigdef=_DEFAULT_SIGNALS,
                )
            except OSError as error:
                raise NetworkError(f"{spec.name}: {command[0]} cannot be started ({error.strerror})") from error
        yield pid
        with contextlib.suppress(BrokenPipeError):
            os.write(mouth, b"go\n")
    finally:
        os.close(ear)
        os.close(mouth)


def _list_inheritable_files() -> list[int]:
    """Return the open files, besides the first three, that a program started now would have, too."""
    inheritable = []
    for number in (int(name) for name in os.listdir("/proc/self/fd")):  # noqa: PTH208 - names are enough
        with contextlib.suppress(OSError):  # the one that listed them is closed by now
            if number > 2 and os.get_inheritable(number):
                inheritable.append(number)
    return inheritable


def _read_birth(pid: int) -> str | None:
    """Return when a process began, None when it has ended: the machine's start, and the ticks since then."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # The program's name, in parentheses, may hold anything; what follows is state, parent, ... and the 22nd: start.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def _require_program(spec: ProcessSpec) -> None:
    program = spec.command[0]
    if not Path(program).is_file():
        raise NetworkError(f"{spec.name}: {program} cannot be started ({os.strerror(errno.ENOENT)})")
    if not os.access(program, os.X_OK):
        raise NetworkError(f"{spec.name}: {program} cannot be started ({os.strerror(errno.EACCES)})")


def _reap(pid: int) -> None:
    """Let a process that has ended go, where it was started by this one."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def _clean_environment() -> dict[str, str]:
    """Return what a node may inherit: where programs and libraries are, nothing of ours."""
    kept = (
        "PATH",
        "LANG",
        "LC_ALL",
        "TZ",
        "HOME",
        "TMPDIR",
        "VIRTUAL_ENV",
        "PYTHONDONTWRITEBYTECODE",
        "GRPC_VERBOSITY",
        LOG_FORMAT_VARIABLE,
    )
    # gRPC writes a line for every connection that somebody else gives up, unless it is told not to.
    ours = {"PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "ERROR"}
    return ours | {name: value for name in kept if (value := os.environ.get(name)) is not None}


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _replace(path: Path, text: str) -> None:
    """Write a file as a whole: readers see all of it, or what was there before."""
    # Of a name of its own: a process has several files, and different programs write them.
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text)
    partial.rename(path)


def _no_note(path: Path, name: str, error: OSError) -> str:
    return f"{path}: no note can be taken of {name} ({error.strerror}); free disk space, or check the disk"
