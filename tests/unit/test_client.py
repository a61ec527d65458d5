"""What the commands do, from Python: on the in-memory ledger, also where an event loop runs already."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blockfl.client import Client
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.canonical import compute_digest
from support.scenario import Scenario
from support.world import World
from support.world_ledger import WorldHub


class WorldClient(Client):
    """A client of the in-memory ledger."""

    def __init__(self, hub: WorldHub, organisation: str) -> None:
        self._hub, self._organisation = hub, organisation

    def _open(self) -> Any:
        @asynccontextmanager
        async def opened() -> Any:
            yield self._hub.ledger(self._organisation)

        return opened()


async def play() -> tuple[WorldHub, bytes]:
    """A task whose first round is published."""
    world = World()
    hub = WorldHub(world)
    scenario = Scenario(hub, world.consortium, world.signers, world.opening_keys)
    await scenario.prepare()
    await scenario.open()
    await scenario.contribute()
    await scenario.close()
    await scenario.attest()
    return hub, await scenario.publish(1, scenario.initial_model)


@pytest.fixture(scope="module")
def played() -> tuple[WorldHub, bytes]:
    return asyncio.run(play())


def test_tasks_and_versions_are_rows_and_watching_ends_with_the_task(played: tuple[WorldHub, bytes]) -> None:
    hub, model = played
    client = WorldClient(hub, "alpha")
    assert [(row["task"], row["version"]) for row in client.tasks()] == [("heart", 1)]
    watching = client.watch("heart", look_s=0.01)
    assert [next(watching)["version"] for _ in range(2)] == [0, 1]
    WorldClient(hub, "coordinator").end("heart", "enough")
    assert list(watching) == []
    assert client.versions("heart")[1]["digest"] == compute_digest(model)
    assert str(client.tasks()[0]["ended"]).endswith(": enough")


def test_a_version_is_exported_as_arrays_and_as_a_file(played: tuple[WorldHub, bytes], tmp_path: Path) -> None:
    exported = WorldClient(played[0], "alpha").export("heart", tmp_path / "m.npz", version=0, card=tmp_path / "card.md")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as archive:
        assert {name: archive[name].shape for name in archive.files} == {
            name: array.shape for name, array in exported.arrays.items()
        }
    assert (tmp_path / "card.md").read_text().startswith("# Heart disease: version 0")


async def test_it_works_where_an_event_loop_runs_already_as_in_a_notebook(played: tuple[WorldHub, bytes]) -> None:
    assert WorldClient(played[0], "alpha").tasks()[0]["task"] == "heart"


def test_errors_are_those_of_the_commands(played: tuple[WorldHub, bytes], tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="no version has a metric 'f1'"):
        WorldClient(played[0], "alpha").export("heart", version="best", metric="f1")
    with pytest.raises(LedgerError):
        Client(tmp_path / "absent.json")
