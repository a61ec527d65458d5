"""Where Node.js is missing the tests that need it are skipped with a reason, and fail in CI."""

from __future__ import annotations

import shutil

import pytest

from support.node_runtime import install_runtime


@pytest.fixture(autouse=True)
def no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)


def test_without_node_the_tests_are_skipped_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"Node\.js or npm is missing"):
        install_runtime()


def test_in_ci_a_missing_node_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=r"Node\.js or npm is missing"):
        install_runtime()
