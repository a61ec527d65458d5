"""What is waited for when a network is brought up: nodes that are behind, and not for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockfl.network import status
from blockfl.network.status import ProcessStatus, wait_until_level

LEVEL = ProcessStatus(
    name="orderer-alpha", state="running", address="", pid=1, memory_mb=1.0, height=593, error="", is_behind=False
)
BEHIND = replace(LEVEL, height=481, error="has 481 of 593 blocks", is_behind=True)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_POLL_S", 0.0)


def test_a_node_that_is_behind_is_waited_for_and_named_once() -> None:
    looks, said = [[BEHIND], [BEHIND], [LEVEL], []], list[str]()
    assert wait_until_level(lambda: looks.pop(0), said.append) == [LEVEL]
    assert looks == [[]]
    assert said == ["orderer-alpha has 481 of 593 blocks; waiting for it"]


def test_a_node_that_stays_behind_is_not_waited_for_for_ever() -> None:
    said: list[str] = []
    assert wait_until_level(lambda: [BEHIND], said.append, timeout_s=0.05) == [BEHIND]
    assert len(said) == 1


def test_what_else_is_wrong_is_not_waited_for() -> None:
    wait_until_level(lambda: [replace(LEVEL, error="has not joined the channel")], pytest.fail)


def test_a_row_tells_it_by_its_error_alone() -> None:
    assert "is_behind" not in BEHIND.as_dict()
    assert BEHIND.as_dict()["error"] == BEHIND.error
