"""The official packages, installed once per session."""

from __future__ import annotations

import pytest

from support.node_runtime import NodeRuntime, install_runtime


@pytest.fixture(scope="session")
def node_runtime() -> NodeRuntime:
    return install_runtime()
