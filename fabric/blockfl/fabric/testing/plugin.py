"""The embedded node as a pytest fixture.

    pytest_plugins = ["blockfl.fabric.testing.plugin"]  # in the conftest.py beside your tests


    async def test_a_value_is_kept(fabric_network):
        async with fabric_network(contract) as network, network.gateway("Org1MSP") as gateway:
            await gateway.submit("app", "Put", "key", "value")
            assert await gateway.evaluate("app", "Get", "key") == b"value"

It works with every plugin that runs asynchronous tests. A network takes a second or two: where tests may share one,
make a fixture of your own with `embedded_network` and the scope that you want.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from blockfl.fabric.testing.network import Network, embedded_network

StartNetwork = Callable[..., AbstractAsyncContextManager[Network]]


@pytest.fixture
def fabric_network(tmp_path: Path) -> StartNetwork:
    """A function that brings up networks for one test; its arguments are those of `embedded_network`."""
    started: list[Path] = []

    def start(contract: Any = None, **options: Any) -> AbstractAsyncContextManager[Network]:
        started.append(tmp_path / f"fabric{len(started)}")
        return embedded_network(started[-1], contract, **options)

    return start
