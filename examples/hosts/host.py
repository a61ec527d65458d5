"""One host: an organisation's machine, with a network, a user, processes and a directory that are its alone."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from examples.hosts import kernel
from examples.hosts.init import READY, Settings

ROOT = Path(__file__).resolve().parents[2]
_KEPT = ("PATH", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "FABRIC_BIN", "FABRIC_CFG_PATH", "GRPC_VERBOSITY")
_READY_S = 30.0
_END_S = 10.0
_STOP_S = 10.0


class HostError(Exception):
    """A host, or a command on it, failed; the text says which and why."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is one host's.

    Attributes:
        name: The organisation's name, the host's too.
        domain_name: The name that the other hosts know it by.
        address: Its IPv4 address.
        long_address: Its IPv6 address.
        user: The id of its user and of that user's group.
        directory: All that it keeps; nobody but its user may look into it.
    """

    name: str
    domain_name: str
    address: str
    long_address: str
    user: int
    directory: Path


class Host:
    """A host, off until `power_on`.

    Args:
        place: What is its own.
        network: Open descriptor of its network namespace.
        settings: What its first process is told.
    """

    def __init__(self, place: Place, network: int, settings: Settings) -> None:
        self.place = place
        self._network = network
        self._settings = settings
        self._init: subprocess.Popen[bytes] | None = None
        self._namespaces: list[int] = []
        self._started: dict[str, subprocess.Popen[bytes]] = {}
        place.directory.mkdir(mode=0o700, exist_ok=True)
        os.chown(place.directory, place.user, place.user)

    @property
    def name(self) -> str:
        """The host's name."""
        return self.place.name

    @property
    def directory(self) -> Path:
        """The host's own directory."""
        return self.place.directory

    def power_on(self) -> None:
        """Start the host's first process; nothing else runs yet.

        Raises:
            HostError: It does not start.
        """
        if self._init is not None:
            raise HostError(f"{self.name} is on already")
        command = [sys.executable, "-m", "examples.hosts.init", self._settings.model_dump_json()]

        def start() -> subprocess.Popen[bytes]:
            kernel.unshare(kernel.CLONE_NEWPID)
            return subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )

        init = kernel.apart(start, [self._network])
        assert init.stdout is not None
        said = init.stdout.readline()
        if said != READY:
            init.kill()
            init.wait()
            raise HostError(f"{self.name} did not start; what it said stands above")
        self._init = init
        self._namespaces = [kernel.open_namespace(init.pid, kind) for kind in ("pid", "mnt", "uts")]

    def power_off(self) -> None:
        """End every process of the host at once, without a word to anybody, as a power cut does."""
        init, self._init = self._init, None
        if init is None:
            return
        init.kill()
        for child in self._started.values():
            child.wait()
        init.wait()
        for stream in (init.stdin, init.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        for descriptor in self._namespaces:
            os.close(descriptor)
        self._namespaces = []
        self._started = {}

    def run(self, command: Sequence[str], *, timeout_s: float = 600.0, shows: bool = False) -> bytes:
        """Run a command as the host's user to its end.

        Args:
            command: Program and arguments.
            timeout_s: It ends by then, or is ended.
            shows: Whether what it says on standard error is shown while it runs.

        Returns:
            What it printed.

        Raises:
            HostError: It failed, with its last lines, or was not done in time.
        """
        errors = None if shows else subprocess.PIPE
        child = self._spawn(command, stdout=subprocess.PIPE, stderr=errors)
        try:
            printed, said = child.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise HostError(f"{self.name}: {' '.join(command)} was not done within {timeout_s:.0f} s") from error
        finally:
            if child.poll() is None:
                child.kill()
                child.communicate()
        if child.returncode:
            last = "\n".join((said or printed).decode(errors="replace").splitlines()[-15:])
            raise HostError(f"{self.name}: {' '.join(command)} ended with {child.returncode}\n{last}")
        return printed

    def start(self, name: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Start a process as the host's user that runs on; its output goes to a log."""
        with log.open("ab") as output:
            child = self._spawn(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        self._started[name] = child
        return child

    def open(self, command: Sequence[str]) -> "Conversation":
        """Start a program that answers each line with a line."""
        return Conversation(self.name, self._spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def processes(self) -> list[psutil.Process]:
        """Return every process of the host but its first, by the pids that this machine knows them by."""
        if self._init is None:
            return []
        mine = _own_processes(self._init.pid)
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError):
                if process.pid != self._init.pid and _own_processes(process.pid) == mine:
                    found.append(process)
        return found

    @contextlib.contextmanager
    def paused(self, names: str = "") -> Iterator[int]:
        """Stop processes with SIGSTOP, and let them go on afterwards; yield how many there are.

        Args:
            names: A word of the command lines of those that are meant; empty: all.
        """
        stopped = []
        try:
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    if names in " ".join(process.cmdline()):
                        process.send_signal(signal.SIGSTOP)
                        stopped.append(process)
            _await_stop(stopped)
            yield len(stopped)
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGCONT)

    def write(self, name: str, content: bytes) -> Path:
        """Give the host a file of its own; return its path."""
        path = self.directory / name
        for above in reversed(path.relative_to(self.directory).parents[:-1]):
            directory = self.directory / above
            if not directory.exists():
                directory.mkdir(mode=0o700)
                os.chown(directory, self.place.user, self.place.user)
        path.write_bytes(content)
        path.chmod(0o600)
        os.chown(path, self.place.user, self.place.user)
        return path

    def close(self) -> None:
        """Switch the host off and give its network back."""
        self.power_off()
        os.close(self._network)

    def _spawn(self, command: Sequence[str], **streams: object) -> subprocess.Popen[bytes]:
        if self._init is None:
            raise HostError(f"{self.name} is off; switch it on before anything runs there")
        program = shutil.which(command[0])
        if program is None:
            raise HostError(f"there is no program {command[0]}")
        user = self.place.user

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
                [program, *command[1:]],
                cwd=self.directory,
                env=self._environment(),
                user=user,
                group=user,
                extra_groups=[],
                umask=0o077,
                start_new_session=True,
                **{"stdin": subprocess.DEVNULL, **streams},
            )

        return kernel.apart(start, [self._network, *self._namespaces])

    def _environment(self) -> Mapping[str, str]:
        kept = {name: value for name in _KEPT if (value := os.environ.get(name)) is not None}
        own = {"HOME": str(self.directory), "TMPDIR": str(self.directory), "PYTHONPATH": str(ROOT)}
        return {**kept, **own, "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}


class Conversation:
    """A program on a host that is spoken to in lines."""

    def __init__(self, host: str, child: subprocess.Popen[bytes]) -> None:
        self._host = host
        self._child = child

    def ask(self, line: str) -> str:
        """Say a line and return the answer."""
        self.say(line)
        return self.hear()

    def say(self, line: str) -> None:
        """Say a line."""
        assert self._child.stdin is not None
        self._child.stdin.write(line.encode() + b"\n")
        self._child.stdin.flush()

    def hear(self) -> str:
        """Return the next line that it says.

        Raises:
            HostError: It says nothing more.
        """
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise HostError(f"{self._host}: the program says nothing more; its last words stand above")
        return line.decode().rstrip("\n")

    def close(self) -> None:
        """End the program."""
        self._child.kill()
        self._child.communicate()


def _own_processes(pid: int) -> Path:
    """Return what tells one host's processes from all others: the namespace of their pids."""
    return Path(f"/proc/{pid}/ns/pid").readlink()


def _await_stop(processes: Sequence[psutil.Process]) -> None:
    """Wait until processes stand still: a busy one takes the signal when it runs next, and tells only its parent."""
    until = time.monotonic() + _STOP_S
    for process in processes:
        with contextlib.suppress(psutil.Error):
            while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE) and time.monotonic() < until:
                time.sleep(0.01)
