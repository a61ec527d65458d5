"""An organisation that was put off the channel: the others come up without it, also after everything stood still."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.protocol import catalogue
from support.small_network import small_network

pytestmark = pytest.mark.slow
LEFT = ("coordinator", "regulator", "university")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[Layout]:
    directory = tmp_path_factory.mktemp("removal") / "network"
    with small_network(directory, ledger_kind, consensus="raft"):  # type: ignore[arg-type]
        yield Layout(directory)


def propose(layout: Layout, organisation: str, path: Path) -> str:
    profile = str(layout.organisation("coordinator").profile("admin"))
    result = CliRunner().invoke(
        app, ["network", "config", "remove", organisation, "--profile", profile, "--output", str(path)]
    )
    return result.output if result.exception is None else str(result.exception)


async def ask(layout: Layout, organisation: str) -> str:
    async with Ledger(ConnectionProfile.load(layout.organisation(organisation).profile("agent"))) as ledger:
        return (await ledger.read(catalogue.CONSORTIUM.key())).network


def test_a_member_of_the_committee_is_named_before_it_goes(layout: Layout, ledger_kind: str, tmp_path: Path) -> None:
    said = " ".join(propose(layout, "regulator", tmp_path / "update").split())
    assert "regulator is one of the committee's 3; 2 of the 2 left would have to agree on everything" in said
    # The embedded node orders by itself.
    assert ("of 2 ordering nodes none may be absent, of the 3 before 1" in said) == (ledger_kind == "local")


def test_the_others_come_up_without_the_one_that_was_removed(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "remove.update"
    assert "hospital leaves" in propose(layout, "hospital", path)
    first, *others = (
        Administrator(ConnectionProfile.load(layout.organisation(name).profile("admin"))) for name in LEFT
    )
    update = path.read_bytes()

    async def remove() -> None:
        signatures = [one.sign(update) for one in (first, *others)]
        await first.submit(await first.read(), update, signatures)

    asyncio.run(remove())
    Network.open(layout.directory).stop()
    said: list[str] = []
    began = time.monotonic()
    Network.open(layout.directory).up(said.append)
    assert "hospital is not on the channel any more: its part is left to itself" in said
    assert time.monotonic() - began < 120
    assert [asyncio.run(ask(layout, name)) for name in LEFT] == ["small"] * 3
