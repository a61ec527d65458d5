"""The demo's agents and aggregators in the containers of the network's ``docker-compose.yaml``.

Each runs attached to a ``docker compose up`` of its own, so that the demo sees it end like any process.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from blockfl.network.engine import Engine
from blockfl.network.project import find_compose

EXAMPLES = Path(__file__).resolve().parents[1]
_MOUNTED = "/product"


def prepare(directory: Path, data: Path, hospitals: tuple[str, ...], task: str, seed: str) -> None:
    """Write what the containers are told; ``data`` has a directory per hospital."""
    told = {"BLOCKFL_DATA": str(data.resolve()), "BLOCKFL_TASK": task}
    options = f"--model /data/model.keras --data /data/data.npz --seed {seed}"
    told |= {f"BLOCKFL_{hospital.upper()}_OPTIONS": options for hospital in hospitals}
    (directory / "demo.env").write_text("".join(f"{name}={value}\n" for name, value in told.items()))


def prepare_cheat(directory: Path, hospital: str, options: list[str]) -> None:
    """Write how one hospital's container differs: it runs the example's cheating agent instead of the product's."""
    command = ["python", "-m", "examples.heart.cheating_institution", "--directory", "/state", *options]
    profile = ["--profile", "/network/organisations/own/profiles/container-agent.json"]
    changed = {
        "command": [*command, *profile],
        "environment": {"PYTHONPATH": _MOUNTED},
        "volumes": [f"{EXAMPLES}:{_MOUNTED}/examples:ro"],
    }
    content = {"services": {f"agent-{hospital}": changed}}
    (directory / "cheat.yaml").write_text(json.dumps(content, indent=2) + "\n")


def run_command(directory: Path, service: str) -> list[str]:
    """Return the command that runs a service attached, and ends with its exit code."""
    network = (directory / "network").resolve()
    return [
        *find_compose(),
        *("--project-directory", str(network)),
        *("--env-file", str(network / ".env"), "--env-file", str(directory / "demo.env")),
        *("--file", str(network / "docker-compose.yaml"), "--file", str(directory / "cheat.yaml")),
        *("up", "--no-deps", "--no-log-prefix", "--exit-code-from", service, service),
    ]


def list_processes(network: Path) -> Iterator[tuple[str, int]]:
    """Return every running container of a network by its name, and its first process."""
    try:
        project = json.loads((network / "network.json").read_bytes()).get("project", "")
    except (OSError, ValueError):
        return
    with Engine() as engine:
        for container in engine.containers(project):
            if container.pid is not None:
                yield container.service, container.pid
