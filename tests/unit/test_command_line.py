"""The ``blockfl`` command: help everywhere, clear errors, exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.cli.task import _naming_the_field
from blockfl.ledger.errors import LedgerError
from blockfl.network.errors import NetworkError
from blockfl.network.network import Network
from blockfl.protocol.records import Training

COMMANDS = [
    ["network", "up"],
    ["network", "status"],
    ["network", "logs"],
    ["network", "stop"],
    ["network", "down"],
    ["network", "compose"],
    *(
        ["network", "config", name]
        for name in ("show", "membership", "add", "remove", "revoke", "inspect", "sign", "submit")
    ),
    ["task", "create"],
    ["task", "list"],
    ["task", "show"],
    ["institution", "run"],
    ["aggregator", "run"],
    ["audit", "tasks"],
    ["audit", "rounds"],
    ["audit", "updates"],
    ["audit", "models"],
    ["audit", "check-aggregate"],
    ["audit", "verify"],
]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blockfl.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_a_missing_profile_is_one_clear_line_and_exit_code_1(tmp_path: Path) -> None:
    finished = run("audit", "tasks", "--profile", str(tmp_path / "none.json"))
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ")
    assert "no connection profile there" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_an_unknown_option_is_a_usage_error() -> None:
    assert run("audit", "tasks", "--no-such-option").returncode == 2


def test_status_of_a_directory_without_a_network_says_how_to_make_one(tmp_path: Path) -> None:
    finished = run("network", "status", "--directory", str(tmp_path))
    assert finished.returncode == 1
    assert "holds no network; bring one up" in finished.stderr


def test_a_task_needs_exactly_one_initial_model(tmp_path: Path) -> None:
    finished = run("task", "create", "heart", "--profile", str(tmp_path / "none.json"))
    assert finished.returncode == 2
    assert "exactly one of --model, --code and --initial" in finished.stderr


def test_a_network_is_not_brought_up_in_somebody_elses_directory(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    finished = run("network", "up", "--directory", str(tmp_path))
    assert finished.returncode == 1
    assert "is not empty and holds no network" in finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_ports_for_a_network_that_exists_are_refused_with_what_to_do(tmp_path: Path) -> None:
    Network.prepare(tmp_path / "network", None, "embedded", base_port=30000)
    assert Network.prepare(tmp_path / "network", None, "embedded", base_port=30000).description.base_port == 30000
    with pytest.raises(NetworkError, match=r"on other ports .*take it down first: blockfl network down"):
        Network.prepare(tmp_path / "network", None, "embedded", base_port=31000)


def test_a_task_that_cannot_be_is_refused_with_the_field_and_the_reason() -> None:
    with pytest.raises(LedgerError, match=r"no such task can be: batch_size: .*; got 0"), _naming_the_field():
        Training(epochs=1, batch_size=0, learning_rate_micro=0)
