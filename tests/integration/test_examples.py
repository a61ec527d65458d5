"""The examples of frameworks that are not BlockFL's own: one command each, in an environment of the framework's."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from examples.environment import Unavailable, find_flower, find_pytorch

OWN_LINES = 20


@pytest.mark.parametrize(
    ("name", "sites", "find"),
    [pytest.param("pytorch", 4, find_pytorch, id="PyTorch"), pytest.param("flower", 4, find_flower, id="Flower")],
)
def test_a_frameworks_example_is_one_command(tmp_path: Path, name: str, sites: int, find: Callable[[], Path]) -> None:
    own = (Path("examples") / name / "training.py").read_text().splitlines()
    assert len([line for line in own if line.strip()]) <= OWN_LINES
    try:
        find()
    except Unavailable as reason:
        pytest.skip(str(reason))
    command = [sys.executable, "-m", "examples.comparison", "--only", name, "--rounds", "6"]
    command += ["--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert list(summary) == [name]
    found = summary[name]
    assert len(found["alone"]) == sites
    assert found["federated"] > sum(found["alone"].values()) / sites + 0.05
    assert abs(found["federated"] - found["pooled"]) < 0.1
    line = next(one for one in done.stdout.splitlines() if one.startswith(f"{name} "))
    assert f"{found['federated']:.3f}" in line


def test_an_example_without_its_framework_is_skipped_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from examples import comparison

    def lack() -> Path:
        raise Unavailable("there is no such framework here")

    monkeypatch.setitem(comparison.EXAMPLES, "flower", replace(comparison.EXAMPLES["flower"], find_python=lack))
    monkeypatch.setattr(sys, "argv", ["comparison", "--only", "flower", "--directory", str(tmp_path)])
    comparison.main()
    assert "flower: skipped: there is no such framework here" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text()) == {}
