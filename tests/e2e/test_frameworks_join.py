"""The examples' clients of Flower and PyTorch join a network, each in the environment that has its framework.

On demand: ``FLOWER_PYTHON`` and ``TORCH_PYTHON`` name the interpreters.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from examples.flower import example as flower
from examples.heart.example import write_sites as write_hospitals
from examples.pytorch import example as pytorch

from blockfl.client import Client
from support.federation_processes import FederationProcesses

pytestmark = pytest.mark.slow
NAMES = ("cleveland", "hungary", "longbeach")
Write = Callable[[Path, int], Mapping[str, Path]]


def need(variable: str) -> pytest.MarkDecorator:
    """Skip before a network is started for it."""
    return pytest.mark.skipif(variable not in os.environ, reason=f"{variable} names no interpreter")


@pytest.mark.parametrize(
    ("name", "variable", "code", "write"),
    [
        pytest.param("flower", "FLOWER_PYTHON", flower.CODE, write_hospitals, id="Flower", marks=need("FLOWER_PYTHON")),
        pytest.param(
            "pytorch", "TORCH_PYTHON", pytorch.CODE, pytorch.write_sites, id="PyTorch", marks=need("TORCH_PYTHON")
        ),
    ],
)
def test_a_framework_joins(
    federation: FederationProcesses, tmp_path: Path, name: str, variable: str, code: Path, write: Write
) -> None:
    python, files = os.environ[variable], list(write(tmp_path, 0).values())
    Client(federation.profile_path("coordinator")).create(
        name, code=code, python=python, institutions=NAMES, rounds=2, minimum=3, norm_bound=5, batch_size=16, epochs=1
    )

    def join(number: int) -> None:
        client, directory = Client(federation.profile_path(NAMES[number])), tmp_path / f"agent-{number}"
        client.join(name, directory=directory, code=code, python=python, data=files[number])

    with ThreadPoolExecutor() as pool:
        list(pool.map(join, range(len(NAMES))))
    versions: list[Any] = Client(federation.profile_path("coordinator")).versions(name)
    assert [one["accepted"] for one in versions[1:]] == [list(NAMES)] * 2
    losses = [one["metrics"]["loss"]["value"] for one in versions]
    assert losses[2] < losses[1] < losses[0]
