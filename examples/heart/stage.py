"""Where the demo plays: it brings a network up, runs commands for its organisations and watches their processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from examples.heart import containers

from blockfl.network.errors import NetworkError

PORTS = 70
COORDINATOR = "coordinator"
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}
_SHOWN = "aggregator coordinator"


class DemoError(Exception):
    """A command of the demo failed; the text holds its last lines."""


class Stage:
    """All organisations on this machine, as one user's processes or as containers.

    Args:
        directory: Where everything is kept.
        base_port: The first of the network's ports.
        ledger: What runs the ledger.
    """

    hosts = 1

    def __init__(self, directory: Path, base_port: int, ledger: str) -> None:
        self.directory = directory
        self.network = directory / "network"
        self.ledger = ledger
        self.peak_rss: dict[str, float] = {}
        self._base_port = base_port
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._done = threading.Event()

    @property
    def evidence(self) -> Path:
        """The file with all that an auditor needs, once it is verified."""
        return self.directory / "evidence.bundle"

    @property
    def bundle(self) -> Path:
        """Where the coordinator writes the evidence."""
        return self.evidence

    def bring_up(self) -> None:
        """Bring the network up."""
        up = ["network", "up", "--directory", str(self.network), "--ledger", self.ledger]
        self.blockfl(*up, "--base-port", str(self._base_port))

    def take_down(self) -> None:
        """Take the network down, if there is one, and delete it."""
        if self.network.exists():
            self.blockfl("network", "down", "--directory", str(self.network), "--yes")

    def blockfl(self, *arguments: str, by: str = COORDINATOR) -> bytes:  # noqa: ARG002
        """Run a ``blockfl`` command to its end where an organisation is, and return what it printed."""
        return self.run([sys.executable, "-m", "blockfl.cli.main", *arguments])

    def run(self, command: Sequence[str]) -> bytes:
        """Run a command of the demo's own to its end, its progress shown, and return what it printed."""
        finished = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if finished.returncode:
            raise DemoError(f"{' '.join(command[2:])} ended with {finished.returncode}")
        return finished.stdout

    def query(self, *arguments: str) -> Any:
        """Run a ``blockfl`` command as the coordinator and return its JSON."""
        return json.loads(self.blockfl(*arguments, "--profile", self.profile(COORDINATOR), "--json"))

    def verify(self) -> Any:
        """Have the coordinator write the evidence into a file and verify that; return what the audit says."""
        bundle = str(self.bundle)
        last_hash = self.query("audit", "export", bundle)["last_hash"]
        return self.query("audit", "verify", bundle, "--expect-hash", last_hash)

    def report(self, audit: Any) -> Path:
        """Write the report on the evidence, as an auditor who trusts the first block does; return its page."""
        page = self.directory / "report.html"
        trusted = ["--genesis-hash", audit["genesis_hash"], "--expect-hash", audit["last_block_hash"]]
        command = ["audit", "report", str(self.evidence), *trusted, "--output", str(page)]
        self.run([sys.executable, "-m", "blockfl.cli.main", *command])
        return page

    def profile(self, organisation: str) -> str:
        """Return the path of an organisation's connection profile."""
        return str(self.network / "organisations" / organisation / "profiles" / "agent.json")

    def state(self, kind: str, organisation: str) -> str:
        """Return the path of a directory in which a process of an organisation keeps what it has to."""
        return str(self.directory / kind / organisation)

    def give(self, organisation: str, path: Path) -> str:  # noqa: ARG002
        """Give an organisation a file that it needs, and return where it finds it."""
        return str(path)

    def start(self, name: str, command: Sequence[str], by: str = COORDINATOR) -> None:
        """Start a process where an organisation is; it runs until the task is complete."""
        self._running[name] = self._spawn(by, command, self._log(name))

    def wait(self, names: list[str], timeout_s: float) -> None:
        """Wait for processes to end well, showing the coordinator's progress.

        Raises:
            DemoError: One failed, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        shown = 0
        pending = set(names)
        while pending:
            shown = self._show(_SHOWN, shown)
            pending -= self.check(deadline)
            self._done.wait(0.2)
        self._show(_SHOWN, shown)

    def check(self, deadline: float) -> set[str]:
        """Return the names of what has ended well.

        Args:
            deadline: Until when everything should be done, of `time.monotonic`.

        Raises:
            DemoError: A process failed, or the time is over.
        """
        ended = {name: code for name, child in sorted(self._running.items()) if (code := child.poll()) is not None}
        for name, code in ended.items():
            if code != 0:
                raise DemoError(f"{name} ended with {code}; its last lines:\n{self._tail(name)}")
        if time.monotonic() > deadline:
            raise DemoError(f"not done in time: {', '.join(sorted(self._running.keys() - ended))}")
        return set(ended)

    def read_log(self, name: str) -> str:
        """Return what a process has said so far."""
        path = self._log(name)
        return path.read_text(errors="replace") if path.exists() else ""

    def watch_memory(self) -> threading.Thread:
        """Read the peak memory of every process until `close`."""
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End everything that was started."""
        self._done.set()
        for child in self._running.values():
            if child.poll() is None:
                child.send_signal(signal.SIGTERM)
        for child in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(15)
            if child.poll() is None:
                child.kill()
                child.wait()

    def _spawn(self, by: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:  # noqa: ARG002
        with log.open("wb") as output:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **_QUIET}
            )

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            for name, pid in self.processes():
                self._measure(name, pid)

    def processes(self) -> Iterator[tuple[str, int]]:
        """Return every process of the network and of the demo by its name."""
        if self.ledger == "compose":
            yield from self._container_processes()
            return
        for name, child in list(self._running.items()):
            yield name, child.pid
            with contextlib.suppress(psutil.Error):
                for descendant in psutil.Process(child.pid).children(recursive=True):
                    yield f"{name}, training", descendant.pid
        for record in (self.network / "run").glob("*.json"):
            with contextlib.suppress(OSError, ValueError):
                yield record.stem, int(json.loads(record.read_bytes())["pid"])

    def _container_processes(self) -> Iterator[tuple[str, int]]:
        with contextlib.suppress(NetworkError):
            for name, pid in containers.list_processes(self.network):
                yield name, pid
                with contextlib.suppress(psutil.Error):
                    for place, descendant in enumerate(psutil.Process(pid).children(recursive=True)):
                        yield f"{name}, training" if place and name.startswith("agent") else name, descendant.pid

    def _measure(self, name: str, pid: int) -> None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.peak_rss[name] = max(self.peak_rss.get(name, 0.0), int(line.split()[1]) / 1024)

    def _show(self, name: str, shown: int) -> int:
        text = self.read_log(name)
        whole = text[: text.rfind("\n") + 1]
        if len(whole) > shown:
            sys.stderr.write(whole[shown:])
        return max(shown, len(whole))

    def _log(self, name: str) -> Path:
        path = self.directory / "logs" / f"{name.replace(' ', '-')}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _tail(self, name: str) -> str:
        return "\n".join(self.read_log(name).splitlines()[-15:])
