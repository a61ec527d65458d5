"""The contract is upgraded on a running network: by `network up` on one machine, or organisation by organisation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network import contract_service
from blockfl.network.contract_service import provision_services, service_process
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.network.process import ProcessTable
from support.small_network import ORGANISATIONS, small_network

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[Layout]:
    directory = tmp_path_factory.mktemp("upgrade") / "network"
    with small_network(directory, ledger_kind):  # type: ignore[arg-type]
        yield Layout(directory)


def contract(layout: Layout, organisation: str, *arguments: str) -> str:
    """What a command of an organisation's administrator prints."""
    profile = str(layout.organisation(organisation).profile("admin"))
    result = CliRunner().invoke(app, ["network", "contract", *arguments, "--profile", profile])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def shown(layout: Layout, organisation: str = "coordinator") -> Any:
    """The definition at the peer of whoever has changed it: others' may be a block behind."""
    (row,) = json.loads(contract(layout, organisation, "show", "--json"))
    return row


async def ask_all(layout: Layout) -> None:
    """Every organisation's peer and contract service answer."""
    for name in ORGANISATIONS:
        async with Ledger(ConnectionProfile.load(layout.organisation(name).profile("agent"))) as ledger:
            assert (await ledger.read_consortium()).network == "small"


def change_code(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As if the contract's source were another."""
    monkeypatch.setattr(contract_service, "compute_code_digest", lambda: f"{number:064x}"[::-1])


def test_up_with_other_code_brings_its_definition_into_force_and_everything_answers(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shown(layout)
    assert (before["sequence"], before["approved"]) == (1, sorted(ORGANISATIONS))
    assert before["collections"] == ["sealed", "models"]
    change_code(monkeypatch, 1)
    said: list[str] = []
    Network.open(layout.directory).up(said.append)
    assert "contract blockfl: definition 2 is in force" in said
    after = shown(layout)
    assert (after["sequence"], after["approved"], after["version"]) == (2, sorted(ORGANISATIONS), "1-1000000000000000")
    asyncio.run(ask_all(layout))
    said.clear()
    Network.open(layout.directory).up(said.append)
    assert not any("is in force" in line for line in said)


def test_organisations_approve_one_by_one_and_a_majority_commits(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_code(monkeypatch, 1)
    Network.open(layout.directory).up(lambda _: None)
    sequence = shown(layout)["sequence"]
    change_code(monkeypatch, 2)
    record = ("--consortium", str(layout.description))
    said = contract(layout, "coordinator", "approve")
    assert f"version 1-2000000000000000, definition {sequence + 1}" in said
    assert "approved by: coordinator\n" in said
    assert "not by: hospital, regulator, university" in said
    with pytest.raises(NetworkError, match=r"more than half of 4 organisations, got 1 \(coordinator\); missing: hosp"):
        contract(layout, "coordinator", "commit")
    for name in ("regulator", "university"):
        contract(layout, name, "approve", *record)
        # Once more changes nothing.
        assert name in contract(layout, name, "approve", *record)
    contract(layout, "regulator", "commit", *record)
    assert shown(layout, "regulator")["sequence"] == sequence + 1
    assert shown(layout, "regulator")["approved"] == ["coordinator", "regulator", "university"]
    # Each begins its contract service anew with the new package.
    network = Network.open(layout.directory)
    provision_services(network.description, layout)
    services = [service_process(organisation, layout) for organisation in network.description.organisations]
    ProcessTable(layout.directory).replace(services)
    asyncio.run(wait_for(layout, "coordinator"))
    contract(layout, "hospital", "approve", *record)
    asyncio.run(wait_for(layout, "hospital"))
    asyncio.run(ask_all(layout))


async def ask_one(layout: Layout, organisation: str) -> None:
    async with Ledger(ConnectionProfile.load(layout.organisation(organisation).profile("agent"))) as ledger:
        await ledger.read_consortium()


async def wait_for(layout: Layout, organisation: str) -> None:
    """A service that begins anew needs a moment."""
    async with asyncio.timeout(60):
        while True:
            try:
                await ask_one(layout, organisation)
            except LedgerError:
                await asyncio.sleep(0.2)
            else:
                return


def test_a_record_of_another_contract_is_refused(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "consortium.yaml"
    path.write_text(layout.description.read_text().replace("contract: blockfl", "contract: other"))
    with pytest.raises(NetworkError, match="expected the record of contract blockfl on channel federation, got one of"):
        contract(layout, "hospital", "approve", "--consortium", str(path))
