"""The demo as a user runs it, with fewer rounds: real training, the cheat rejected, the audit verified."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
HOSPITALS = ["cleveland", "hungary", "longbeach", "switzerland"]
ROUNDS = 5


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Path:
    path = tmp_path_factory.mktemp("demo") / "result"
    command = [sys.executable, "-m", "examples.heart.demo", "--directory", str(path), "--rounds", str(ROUNDS)]
    command += ["--ledger", ledger_kind]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1700)
    assert finished.returncode == 0, finished.stderr[-4000:]
    return path


@pytest.fixture(scope="module")
def summary(directory: Path) -> Any:
    return json.loads((directory / "summary.json").read_bytes())


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_four_hospitals_hold_one_model(summary: Any) -> None:
    assert list(summary["model_digests"]) == HOSPITALS
    assert len(set(summary["model_digests"].values())) == 1


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_scaled_update_is_rejected_with_its_code_and_the_rounds_go_on(summary: Any) -> None:
    rejected = {row["round"]: row["rejected"] for row in summary["rounds"] if row["rejected"]}
    assert rejected == {5: [{"organisation": "hungary", "code": "BFL416"}]}
    assert [row["round"] for row in summary["rounds"]] == list(range(1, ROUNDS + 1))
    assert all(row["accepted"] == HOSPITALS for row in summary["rounds"][:4])


@pytest.mark.slow
@pytest.mark.tensorflow
def test_training_has_an_effect_and_the_audit_verifies(summary: Any) -> None:
    assert summary["audit"]["verified"] is True
    assert summary["sum"]["verified"] is True
    assert summary["sum"]["accepted"] == summary["rounds"][-1]["accepted"]
    assert summary["audit"]["transactions"] >= ROUNDS * 4 * 4
    accuracy = summary["accuracy"]
    assert accuracy["federated"] == summary["rounds"][-1]["accuracy"] > 0.6
    assert sorted(accuracy["alone"]) == HOSPITALS


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_result_says_which_ledger_it_is_of(summary: Any, ledger_kind: str) -> None:
    assert (summary["ledger"], summary["hosts"]) == (ledger_kind, 1)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_every_ledger_comes_to_the_same_model(summary: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    # The seed fixes training and rounding; what runs the ledger has no part in the result.
    digests = tmp_path_factory.getbasetemp() / "digests.json"
    if not digests.exists():
        digests.write_text(json.dumps(summary["model_digests"]))
        pytest.skip("the first ledger of this run: there is nothing to compare with yet")
    assert json.loads(digests.read_text()) == summary["model_digests"]


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_page_is_self_contained(directory: Path, summary: Any) -> None:
    page = (directory / "report.html").read_text()
    assert summary["model_digests"]["cleveland"] in page
    assert "BFL416" in page
    assert not re.findall(r"<script|<link|<iframe|src=|url\(|@import", page)
    assert "In round 5 hungary was rejected: the whole update is larger than the task allows" in page


@pytest.mark.slow
@pytest.mark.tensorflow
def test_nothing_is_left_behind(directory: Path, summary: Any) -> None:
    mine = os.getpid()
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if process.pid != mine and str(directory) in " ".join(process.info["cmdline"] or [])
    ]
    assert left == []
    assert not (directory / "network").exists()


def verify(bundle: Path, genesis_hash: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blockfl.cli.main", "audit", "verify", str(bundle), "--genesis-hash", genesis_hash]
    environment = {name: value for name, value in os.environ.items() if name != "BLOCKFL_PROFILE"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600, env=environment)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_the_evidence_verifies_when_the_network_is_gone_and_no_longer_when_a_byte_is_changed(
    directory: Path, summary: Any, tmp_path: Path
) -> None:
    assert not (directory / "network").exists()
    bundle = directory / "evidence.bundle"
    done = verify(bundle, summary["audit"]["genesis_hash"])
    assert done.returncode == 0, done.stderr
    assert f"{ROUNDS + 1} versions recomputed" in done.stderr
    changed = bytearray(bundle.read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed.bundle").write_bytes(changed)
    assert verify(tmp_path / "changed.bundle", summary["audit"]["genesis_hash"]).returncode == 3
