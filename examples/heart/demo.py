"""The main job in one command: a seven-organisation network, four real hospitals, twelve rounds, the result, the audit.

Everything is done by ``blockfl`` commands in processes of their own; this file starts them, waits and collects. One
institution sends a scaled update in one round, and is seen to be rejected. Nothing stays behind unless ``--keep``.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from examples.heart import containers
from examples.heart.summary import plot_accuracy, print_rounds, write_page

from blockfl.network.errors import NetworkError

COMMITTEE = ("coordinator", "regulator", "university")
HOSPITALS = ("cleveland", "hungary", "longbeach", "switzerland")
CHEAT, CHEATING_ROUND = "hungary", 5
TASK = "heart"
EPOCHS, BATCH_SIZE, BOUND_L2 = 1, 16, 3.0
PORTS = 70


class DemoError(Exception):
    """A command of the demo failed; the text holds its last lines."""


class Stage:
    """The demo's processes, files and memory readings."""

    def __init__(self, directory: Path, base_port: int, ledger: str) -> None:
        self.directory = directory
        self.network = directory / "network"
        self.base_port = base_port
        self.ledger = ledger
        self.peak_rss: dict[str, float] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._done = threading.Event()

    def blockfl(self, *arguments: str) -> bytes:
        """Run a ``blockfl`` command to its end and return what it printed."""
        return self.run([sys.executable, "-m", "blockfl.cli.main", *arguments])

    def run(self, command: list[str]) -> bytes:
        """Run a command to its end, its progress shown, and return what it printed."""
        finished = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if finished.returncode:
            raise DemoError(f"{' '.join(command[2:])} ended with {finished.returncode}")
        return finished.stdout

    def query(self, *arguments: str) -> Any:
        """Run a ``blockfl`` command as the coordinator and return its JSON."""
        return json.loads(self.blockfl(*arguments, "--profile", self.profile("coordinator"), "--json"))

    def profile(self, organisation: str, user: str = "agent") -> str:
        """Return the path of a connection profile."""
        return str(self.network / "organisations" / organisation / "profiles" / f"{user}.json")

    def start(self, name: str, command: list[str]) -> None:
        """Start a process that runs until the task is complete."""
        with self._log(name).open("wb") as log:
            self._running[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **QUIET}
            )

    def wait(self, names: list[str], timeout_s: float) -> None:
        """Wait for processes to end well, showing the coordinator's progress.

        Raises:
            DemoError: One failed, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        shown = 0
        pending = set(names)
        while pending:
            shown = self._show("aggregator coordinator", shown)
            for name in sorted(self._running):
                code = self._running[name].poll()
                if code is not None and code != 0:
                    raise DemoError(f"{name} ended with {code}; its last lines:\n{self._tail(name)}")
                if code == 0:
                    pending.discard(name)
            if time.monotonic() > deadline:
                raise DemoError(f"not done within {timeout_s:.0f} s: {', '.join(sorted(pending))}")
            self._done.wait(0.2)
        self._show("aggregator coordinator", shown)

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

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            if self.ledger == "compose":
                self._measure_containers()
                continue
            for name, child in list(self._running.items()):
                self._measure(name, child.pid)
                with contextlib.suppress(psutil.Error):
                    for descendant in psutil.Process(child.pid).children(recursive=True):
                        self._measure(f"{name}, training", descendant.pid)
            for record in (self.network / "run").glob("*.json"):
                with contextlib.suppress(OSError, ValueError):
                    self._measure(record.stem, int(json.loads(record.read_bytes())["pid"]))

    def _measure_containers(self) -> None:
        with contextlib.suppress(NetworkError):
            for name, pid in containers.list_processes(self.network):
                self._measure(name, pid)
                with contextlib.suppress(psutil.Error):
                    for place, descendant in enumerate(psutil.Process(pid).children(recursive=True)):
                        self._measure(
                            f"{name}, training" if place and name.startswith("agent") else name, descendant.pid
                        )

    def _measure(self, name: str, pid: int) -> None:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    self.peak_rss[name] = max(self.peak_rss.get(name, 0.0), int(line.split()[1]) / 1024)

    def _show(self, name: str, shown: int) -> int:
        text = self._log(name).read_text(errors="replace") if self._log(name).exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if len(whole) > shown:
            sys.stderr.write(whole[shown:])
        return max(shown, len(whole))

    def _log(self, name: str) -> Path:
        path = self.directory / "logs" / f"{name.replace(' ', '-')}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _tail(self, name: str) -> str:
        return "\n".join(self._log(name).read_text(errors="replace").splitlines()[-15:])


AUDITED = ("verified", "blocks", "transactions", "genesis_hash", "last_block_hash", "steps")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3"}


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("build/demo"))
    parser.add_argument("--ledger", choices=("embedded", "local", "compose"), default="embedded")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seed", type=int, default=7, help="data split, initial model, training and rounding")
    parser.add_argument("--rule", default="fedavg", help="as of `blockfl task create`: median, trimmed_mean, krum, …")
    parser.add_argument("--optimiser", help="as of `blockfl task create`: momentum, adam, yogi, adagrad")
    parser.add_argument("--keep", action="store_true", help="leave the network running")
    arguments = parser.parse_args()
    directory: Path = arguments.directory
    if (directory / "network").exists():
        with contextlib.suppress(DemoError):
            Stage(directory, 0, "").blockfl("network", "down", "--directory", str(directory / "network"), "--yes")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    # Two demos that begin at the same time look in different places.
    stage = Stage(directory, find_free_ports(17050 + PORTS * (os.getpid() % 200)), arguments.ledger)
    try:
        with terminating():
            summary = play(stage, arguments)
    except DemoError as error:
        sys.exit(f"error: {error}")
    finally:
        stage.close()
        if not arguments.keep and stage.network.exists():
            stage.blockfl("network", "down", "--directory", str(stage.network), "--yes")
    print_rounds(summary)
    print(f"\nresult: {directory / 'summary.html'}, {directory / 'summary.json'}")
    print(f"evidence, which verifies anywhere with `blockfl audit verify`: {directory / 'evidence.bundle'}")
    if not summary["audit"]["verified"] or len(set(summary["model_digests"].values())) != 1:
        sys.exit("error: the result is not what it should be")


def play(stage: Stage, arguments: argparse.Namespace) -> dict[str, Any]:
    """Bring the network up, train, audit; return the summary."""
    seed, rounds = str(arguments.seed), arguments.rounds
    data = stage.directory / "data"
    prepare = [sys.executable, "-m", "examples.heart.prepare", "--directory", str(data), "--seed", seed]
    stage.run([*prepare, *(["--apart"] if stage.ledger == "compose" else [])])
    up = ["network", "up", "--directory", str(stage.network), "--ledger", arguments.ledger]
    stage.blockfl(*up, "--base-port", str(stage.base_port))
    if stage.ledger == "compose":
        containers.prepare(stage.directory, data, HOSPITALS, TASK, seed)
        cheat = ["--task", TASK, "--seed", seed, "--cheat-in-round", str(CHEATING_ROUND)]
        containers.prepare_cheat(
            stage.directory, CHEAT, [*cheat, "--model", "/data/model.keras", "--data", "/data/data.npz"]
        )
    stage.watch_memory()
    for organisation in COMMITTEE:
        stage.start(f"aggregator {organisation}", aggregator_command(stage, organisation))
    stage.blockfl(*task_command(stage, data, rounds), *strategy_options(arguments))
    for hospital in HOSPITALS:
        stage.start(f"institution {hospital}", institution_command(stage, hospital, data, seed))
    stage.wait([f"institution {hospital}" for hospital in HOSPITALS], timeout_s=120 + 180 * rounds)
    baselines = stage.directory / "baselines.json"
    training = ["--epochs", str(EPOCHS * rounds), "--batch-size", str(BATCH_SIZE)]
    stage.run([sys.executable, "-m", "examples.heart.baseline", "--seed", seed, *training, "--output", str(baselines)])
    summary = summarise(stage, arguments.ledger, json.loads(baselines.read_bytes()))
    (stage.directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    plot = stage.directory / "accuracy.png"
    plot_accuracy(summary, plot)
    write_page(summary, plot, stage.directory / "summary.html")
    return summary


def aggregator_command(stage: Stage, organisation: str) -> list[str]:
    """Return the command of a committee member's process."""
    if stage.ledger == "compose":
        return containers.run_command(stage.directory, f"aggregator-{organisation}")
    state = stage.directory / "aggregators" / organisation
    return [
        *(sys.executable, "-m", "blockfl.cli.main", "aggregator", "run"),
        *("--profile", stage.profile(organisation), "--directory", str(state), "--task", TASK),
    ]


def task_command(stage: Stage, data: Path, rounds: int) -> list[str]:
    """Return the command that creates the task."""
    return [
        *(
            "task",
            "create",
            TASK,
            "--profile",
            stage.profile("coordinator"),
            "--title",
            "Heart disease, four hospitals",
        ),
        *("--model", str(data / "model.keras"), "--rounds", str(rounds), "--epochs", str(EPOCHS)),
        *(
            "--batch-size",
            str(BATCH_SIZE),
            "--norm-bound",
            str(BOUND_L2),
            "--submit-seconds",
            "600",
            "--judge-seconds",
            "600",
        ),
    ]


def strategy_options(arguments: argparse.Namespace) -> list[str]:
    """Return the options that choose the rule and the optimiser."""
    optimiser = ["--optimiser", arguments.optimiser] if arguments.optimiser else []
    return ["--rule", arguments.rule, *optimiser]


def institution_command(stage: Stage, hospital: str, data: Path, seed: str) -> list[str]:
    """Return the command of a hospital's agent; one of them is the cheat."""
    if stage.ledger == "compose":
        return containers.run_command(stage.directory, f"agent-{hospital}")
    agent = [sys.executable, "-m", "blockfl.cli.main", "institution", "run"]
    if hospital == CHEAT:
        agent = [sys.executable, "-m", "examples.heart.cheating_institution", "--cheat-in-round", str(CHEATING_ROUND)]
    return [
        *agent,
        *("--profile", stage.profile(hospital), "--task", TASK, "--seed", seed),
        *("--model", str(data / "model.keras"), "--data", str(data / f"{hospital}.npz")),
        *("--directory", str(stage.directory / "institutions" / hospital)),
    ]


def summarise(stage: Stage, ledger: str, baselines: dict[str, Any]) -> dict[str, Any]:
    """Return the result, from what the ledger says."""
    bundle = str(stage.directory / "evidence.bundle")
    last_hash = stage.query("audit", "export", bundle)["last_hash"]
    audit = stage.query("audit", "verify", bundle, "--expect-hash", last_hash)
    rounds = stage.query("audit", "rounds", "--task", TASK)
    updates = stage.query("audit", "updates", "--task", TASK)
    models = stage.query("audit", "models", "--task", TASK)
    accuracy = {model["round"]: model["accuracy"] for model in models}
    public = sum(audit["function_bytes"].get(name, 0) for name in ("SubmitUpdate", "UploadChunk", "JudgeUpdate"))
    return {
        "ledger": ledger,
        "rounds": [
            {
                "round": row["round"],
                "accepted": row["accepted"],
                "rejected": row["rejected"],
                "seconds": row["seconds"],
                "accuracy": accuracy[row["round"]],
                "norm_bits": {
                    one["organisation"]: one["norm_l2_squared_bits"] for one in updates if one["round"] == row["round"]
                },
            }
            for row in rounds
        ],
        "accuracy": {"federated": models[-1]["accuracy"], **baselines},
        "model_digests": {name: report["digest"] for name, report in models[-1]["reports"].items()},
        "audit": {key: audit[key] for key in AUDITED},
        "strategy": stage.query("audit", "tasks")[0]["strategy"],
        "sum": check_sum(stage, rounds[-1]["round"]),
        "ledger_bytes_per_update": round(public / len(updates)),
        "peak_rss_mb": {name: round(peak, 1) for name, peak in sorted(stage.peak_rss.items())},
    }


def check_sum(stage: Stage, number: int) -> dict[str, Any] | None:
    """Have an ordinary hospital verify a round's sum; without commitments only the committee can."""
    if stage.query("task", "show", TASK)["spec"]["check"] != "commitment":
        return None
    profile = ("--profile", stage.profile(HOSPITALS[0]), "--json")
    checked = json.loads(stage.blockfl("audit", "check-aggregate", TASK, str(number), *profile))
    return {"by": HOSPITALS[0], **{key: checked[key] for key in ("verified", "round", "accepted", "sum_digest")}}


def find_free_ports(first: int = 17050) -> int:
    """Return the first port of a free range."""
    for base in range(first, 60000, PORTS):
        if all(is_free(port) for port in range(base, base + PORTS)):
            return base
    raise SystemExit("error: no free range of ports on 127.0.0.1")


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that everything is put away."""

    def interrupt(number: int, _: object) -> None:
        raise DemoError(f"ended by signal {number}")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
