"""Where the demo plays: it says what is missing before it puts anything away."""

from argparse import Namespace
from pathlib import Path

import pytest
from examples.heart.demo import set_stage
from examples.heart.stage import DemoError


def make_arguments(directory: Path, *, keep: bool = False) -> Namespace:
    return Namespace(directory=directory, ledger="hosts", keep=keep)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The result of an earlier demo."""
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "summary.json").write_text("{}")
    return directory


def test_without_root_it_says_so_and_keeps_what_is_there(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(DemoError, match="hosts need root"):
        set_stage(make_arguments(earlier))
    assert (earlier / "summary.json").exists()


def test_without_fabric_it_says_so_and_keeps_what_is_there(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.heart.hosts_stage.why_not", lambda: None)
    monkeypatch.setenv("FABRIC_BIN", str(earlier / "none"))
    with pytest.raises(DemoError, match="seven hosts run Hyperledger Fabric: expected Fabric's program peer"):
        set_stage(make_arguments(earlier))
    assert (earlier / "summary.json").exists()


def test_hosts_cannot_be_left_running(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.heart.demo.require_hosts", lambda: None)
    with pytest.raises(DemoError, match="expected no --keep"):
        set_stage(make_arguments(earlier, keep=True))
    assert (earlier / "summary.json").exists()
