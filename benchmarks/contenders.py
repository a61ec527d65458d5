"""What rounds are compared with: other federated learning, the same sizes, no training, in the same run.

    python = find_interpreter(FRAMEWORKS[0], Path("build/bench/environments"))
    seconds = FRAMEWORKS[0].runs["flower simulation"](python, 10_000, 5, scratch)

Each framework has an environment of its own, made by the first call from locked packages (``peers/*.txt``).
``FLOWER_PYTHON`` and ``NVFLARE_PYTHON`` name other interpreters.
"""

import itertools
import json
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from examples.environment import Unavailable, find_with, install_packages
from examples.port_range import reserve_ports

from blockfl.fabric.identity.authority import Authority
from blockfl.fabric.identity.signing import create_private_key, private_key_pem

PEERS: Final = Path(__file__).parent / "peers"
CLIENTS: Final = 4
TIMEOUT_S: Final = 300.0
"""For each round."""
_LOOK_S: Final = 1.0
_LISTENS_S: Final = 120.0
Run = Callable[[Path, int, int, Path], float]
"""Interpreter, dimension, rounds, an empty directory: to seconds a round."""


class Failed(Exception):
    """A contender did not come to an end; the message has its last lines."""


@dataclass(frozen=True, kw_only=True)
class Framework:
    """Other federated learning.

    Attributes:
        name: Also of its files in ``peers``.
        module: What an environment must be able to import.
        variable: The environment variable that names another interpreter.
        runs: What is measured, by name.
    """

    name: str
    module: str
    variable: str
    runs: Mapping[str, Run]


def find_interpreter(framework: Framework, environments: Path) -> Path:
    """Return an interpreter that has a framework; installs its locked packages if there is none.

    Raises:
        Unavailable: They cannot be had.
    """
    home = environments.absolute() / framework.name
    found = find_with(framework.module, os.environ.get(framework.variable), home / "bin" / "python")
    return found or install_packages(home, PEERS / f"{framework.name}.txt", framework.module)


def run_simulation(python: Path, dimension: int, rounds: int, scratch: Path, *options: str) -> float:
    """Flower's simulation: clients are workers of ray on this machine, messages pass through memory."""
    app = [*_flower(python, "simulation", *options), *_task(dimension, rounds, scratch)]
    with ExitStack() as stack:
        return _finish(_start(stack, app, scratch, "simulation"), rounds, scratch)


def run_secure_simulation(python: Path, dimension: int, rounds: int, scratch: Path) -> float:
    """The same with SecAgg+: sums under masks that cancel out, from secrets that the clients share."""
    return run_simulation(python, dimension, rounds, scratch, "--secure")


def run_grpc(python: Path, dimension: int, rounds: int, scratch: Path) -> float:
    """Flower's older server and clients over gRPC, without TLS."""
    address = f"127.0.0.1:{reserve_ports()}"
    with ExitStack() as stack:
        command = [*_flower(python, "server", "--address", address), *_task(dimension, rounds, scratch)]
        server = _start(stack, command, scratch, "server")
        _wait_for_listener(server, address)
        for number in range(CLIENTS):
            _start(stack, _flower(python, "client", "--address", address), scratch, f"client-{number}")
        return _finish(server, rounds, scratch)


def run_deployed(python: Path, dimension: int, rounds: int, scratch: Path) -> float:
    """Flower's deployed fleet: a SuperLink, a SuperNode for each client, their apps in processes, TLS everywhere."""
    programs, ports = python.absolute().parent, reserve_ports(CLIENTS + 1)
    link = f"127.0.0.1:{ports}"
    authority, server = _issue_certificate(scratch)
    tls = [*("--ssl-ca-certfile", str(authority)), *("--ssl-certfile", str(server))]
    tls += ["--ssl-keyfile", str(server.with_suffix(".key")), "--host", "127.0.0.1"]
    app = _write_app(scratch, link, authority)
    asked = f'dimension={dimension} rounds={rounds} times="{scratch / "times.json"}"'
    with ExitStack() as stack:
        command = [
            str(programs / "flower-superlink"),
            "--port",
            str(ports),
            "--disable-runtime-dependency-installation",
        ]
        superlink = _start(stack, [*command, *tls], scratch, "superlink")
        _wait_for_listener(superlink, link)
        for number in range(CLIENTS):
            command = [str(programs / "flower-supernode"), "--superlink", link, "--root-certificates", str(authority)]
            command += ["--port", str(ports + 1 + number), "--node-config", f"partition-id={number}"]
            _start(stack, [*command, *tls], scratch, f"supernode-{number}")
        run = [str(programs / "flwr"), "run", str(app), "bench", "--stream", "--run-config", asked]
        return _finish(_start(stack, run, scratch, "run"), rounds, scratch)


def _issue_certificate(scratch: Path) -> tuple[Path, Path]:
    """Return the files of an authority's certificate and of a server's on this machine, whose key is beside it."""
    authority, key = Authority.create("ca.bench", "bench"), create_private_key()
    certificate = authority.issue(key.public_key(), common_name="bench", unit=None, hosts=("127.0.0.1",), tls=True)
    files = {"authority.pem": authority.certificate_pem, "server.pem": certificate, "server.key": private_key_pem(key)}
    for name, content in files.items():
        (scratch / name).write_bytes(content)
    return scratch / "authority.pem", scratch / "server.pem"


def _write_app(scratch: Path, link: str, authority: Path) -> Path:
    """Write Flower's app, and where it is sent to; return the app's directory."""
    app, home = scratch / "app", scratch / "home"
    for directory in (app, home):
        directory.mkdir()
    (app / "flower_app.py").write_bytes((PEERS / "flower_app.py").read_bytes())
    (app / "pyproject.toml").write_bytes((PEERS / "flower_app.toml").read_bytes())
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "{link}"\nroot-certificates = "{authority}"\n'
    )
    return app


def run_nvflare(python: Path, dimension: int, rounds: int, scratch: Path) -> float:
    """NVFlare's simulator: a process for each client, messages over local sockets."""
    command = [str(python), str(PEERS / "nvflare_app.py"), "--workspace", str(scratch / "workspace")]
    with ExitStack() as stack:
        return _finish(
            _start(stack, [*command, *_task(dimension, rounds, scratch)], scratch, "nvflare"), rounds, scratch
        )


FRAMEWORKS: Final = (
    Framework(
        name="flower",
        module="flwr",
        variable="FLOWER_PYTHON",
        runs={
            "flower simulation": run_simulation,
            "flower simulation, SecAgg+": run_secure_simulation,
            "flower gRPC, no TLS": run_grpc,
            "flower SuperLink, TLS": run_deployed,
        },
    ),
    Framework(name="nvflare", module="nvflare", variable="NVFLARE_PYTHON", runs={"nvflare simulator": run_nvflare}),
)


def compute_seconds(moments: Sequence[float], rounds: int) -> float:
    """Return the median of seconds between the moments at which rounds' sums were ready.

    Raises:
        Failed: Not every round came to its sum.
    """
    if len(moments) != rounds:
        raise Failed(f"{len(moments)} of {rounds} rounds came to a sum")
    return statistics.median(after - before for before, after in itertools.pairwise(moments))


def _flower(python: Path, *arguments: str) -> list[str]:
    return [str(python), str(PEERS / "flower_app.py"), *arguments]


def _task(dimension: int, rounds: int, scratch: Path) -> list[str]:
    return ["--dimension", str(dimension), "--rounds", str(rounds), "--times", str(scratch / "times.json")]


def _start(stack: ExitStack, command: Sequence[str], scratch: Path, name: str) -> subprocess.Popen[bytes]:
    """Start a process that ends with the stack, its own children included; programs beside it are found."""
    home = {"FLWR_HOME": str(scratch / "home"), "FLWR_TELEMETRY_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    home["PATH"] = f"{Path(command[0]).absolute().parent}{os.pathsep}{os.environ['PATH']}"
    with (scratch / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **home},
            cwd=scratch,
            start_new_session=True,
        )
    stack.callback(_end, process)
    return process


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group."""
    try:
        os.killpg(process.pid, 15)
        process.wait(20)
    except ProcessLookupError:
        process.wait()
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()


def _finish(process: subprocess.Popen[bytes], rounds: int, scratch: Path) -> float:
    times = scratch / "times.json"
    _wait_for_end(process, times, scratch)
    if not times.exists():
        raise Failed(f"no round came to a sum: {_read_end(scratch)}")
    return compute_seconds(json.loads(times.read_bytes()), rounds)


def _wait_for_end(process: subprocess.Popen[bytes], times: Path, scratch: Path) -> None:
    """Wait until a process ends.

    Raises:
        Failed: It does not, and no other round has come to its sum for long: some stay after their work has failed.
    """
    seen, since = b"", time.monotonic()
    while time.monotonic() - since < TIMEOUT_S:
        try:
            process.wait(_LOOK_S)
            return
        except subprocess.TimeoutExpired:
            found = times.read_bytes() if times.exists() else b""
            if found != seen:
                seen, since = found, time.monotonic()
    raise Failed(f"no round within {TIMEOUT_S:.0f} s: {_read_end(scratch)}")


def _read_end(scratch: Path) -> str:
    logs = sorted(scratch.glob("*.log"))
    return "; ".join(line for log in logs for line in log.read_text(errors="replace").splitlines()[-1:])


def _wait_for_listener(process: subprocess.Popen[bytes], address: str) -> None:
    """Wait until a process listens.

    Raises:
        Failed: It ended, or does not listen in time.
    """
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _LISTENS_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise Failed(f"{address} does not listen")


__all__ = ["FRAMEWORKS", "Failed", "Framework", "Unavailable", "find_interpreter"]
