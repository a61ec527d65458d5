"""The files for operators: alerts, dashboard, units; each tried by the program that reads it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from blockfl.network.description import Description

ROOT = Path(__file__).parents[2]
WATCHING, UNITS = ROOT / "network" / "watching", ROOT / "network" / "systemd"
OURS = [ROOT / room for room in ("fabric", "chaincode", "clients", "aggregator", "network")]
EXPOSURE = 20  # tenths
OF_FABRIC = {"ledger_blockchain_height", "ledger_transaction_count"}
OF_EVERY_PROCESS = {"up", "process_resident_memory_bytes", "process_open_fds"}


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program}: not on this machine")
    return subprocess.run([program, *arguments], cwd=WATCHING, capture_output=True, text=True, check=False)


def list_dashboard_expressions() -> list[str]:
    panels = json.loads((WATCHING / "dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


def list_alerts() -> list[dict[str, str]]:
    (group,) = yaml.safe_load((WATCHING / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, str]] = group["rules"]
    return rules


def test_prometheus_takes_the_configuration_and_its_alerts() -> None:
    done = run("promtool", "check", "config", "prometheus.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_raised_when_it_has_to_and_not_before() -> None:
    tested = {
        case["alertname"]
        for test in yaml.safe_load((WATCHING / "alerts-test.yaml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tested == {alert["alert"] for alert in list_alerts()}
    done = run("promtool", "test", "rules", "alerts-test.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_every_panel_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{index}", "expr": text} for index, text in enumerate(list_dashboard_expressions())]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = run("promtool", "check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_asked_for_is_what_processes_export() -> None:
    text = " ".join([*list_dashboard_expressions(), *(alert["expr"] for alert in list_alerts())])
    asked = set(re.findall(r"\b(?:blockfl|ledger|process)_[a-z_]+", text)) | {"up"}
    source = "".join(path.read_text() for room in OURS for path in room.rglob("*.py"))
    exported = set(re.findall(r'"(blockfl_[a-z_]+)"', source))
    counters = {f"{name}_total" for name in exported}
    assert asked - exported - counters == OF_FABRIC | OF_EVERY_PROCESS


def test_every_port_that_is_asked_is_the_first_organisation_s() -> None:
    jobs = yaml.safe_load((WATCHING / "prometheus.yaml").read_text())["scrape_configs"]
    ports = {job["job_name"]: int(job["static_configs"][0]["targets"][0].rpartition(":")[2]) for job in jobs}
    first = Description.load_default().organisations[0].ports
    expected = (first.peer_operations, first.orderer_operations, first.contract_operations)
    assert (ports["peer"], ports["orderer"], ports["contract"]) == expected
    for unit, job in (("blockfl-aggregator.service", "aggregator"), ("blockfl-agent@.service", "agent")):
        assert f"BLOCKFL_OPERATIONS=127.0.0.1:{ports[job]}\n" in (UNITS / unit).read_text()


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.name)
def test_systemd_takes_each_unit_and_finds_it_confined(unit: Path, tmp_path: Path) -> None:
    # The program is not installed where the unit expects it; any other complaint counts.
    content = unit.read_text().replace("/opt/blockfl/bin/blockfl", "/bin/true")
    copy = tmp_path / unit.name
    copy.write_text(content)
    verified = run("systemd-analyze", "verify", "--man=no", str(copy))
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = run("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", str(copy))
    assert judged.returncode == 0, judged.stdout.splitlines()[-1]


def test_every_command_of_a_unit_exists() -> None:
    for unit in UNITS.glob("*.service"):
        for line in re.findall(r"^Exec\w+=/opt/blockfl/bin/(blockfl .*)$", unit.read_text(), re.MULTILINE):
            said = subprocess.run(
                [sys.executable, "-m", "blockfl.cli.main", *line.split()[1:3], "--help"],
                capture_output=True,
                text=True,
                check=True,
            )
            options = set(re.findall(r"--[a-z-]+", line))
            assert options <= set(re.findall(r"--[a-z-]+", said.stdout)), line
