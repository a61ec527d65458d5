"""The contract is upgraded on a running network: by `network up` on one machine, or organisation by organisation."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.contract.release import read_release
from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.code_change import Agreement
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.network.upgrade import Upgrade
from blockfl.protocol import catalogue
from support.other_installation import install_other, run_other
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
            assert (await ledger.read(catalogue.CONSORTIUM.key())).network == "small"


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Interpreters of three later releases, each with other code of the contract."""
    return [install_other(tmp_path_factory.mktemp("release"), f"release {number}") for number in range(3)]


def name_of(python: Path) -> str:
    """How the definition calls the contract's code of an installation."""
    said = run_other(python, "--version").stdout
    return said.partition("contract ")[2].partition(" ")[0]


def up(python: Path, layout: Layout, *arguments: str) -> subprocess.CompletedProcess[str]:
    ledger = json.loads(layout.state.read_bytes())["ledger"]
    return run_other(python, "network", "up", "-d", str(layout.directory), "--ledger", ledger, *arguments)


async def test_what_is_in_force_is_brought_into_force_again_for_a_peer_that_was_set_up_anew(layout: Layout) -> None:
    """What an organisation approved is at its own peer alone: once it is gone, only the next number brings it back."""
    first, *others = (
        Upgrade(ConnectionProfile.load(place.profile("admin")), Host.open(place.directory).load_consortium())
        for place in map(layout.organisation, ORGANISATIONS)
    )
    assert await first.list_waiting() == []
    before = (await first.plan()).sequence
    asked = await first.approve(before + 1)
    assert asked.sequence == before + 1
    for other in others:
        assert await other.list_waiting() == [ORGANISATIONS[0]]
    said: list[str] = []
    await asyncio.to_thread(Network.open(layout.directory).up, said.append)
    assert any(f"approved once more, for {ORGANISATIONS[0]}" in line for line in said)
    for upgrade in (first, *others):
        assert (await upgrade.plan()).sequence == before + 1
        assert await upgrade.list_waiting() == []
    await asyncio.to_thread(Network.open(layout.directory).up, said.append)
    assert (await first.plan()).sequence == before + 1, "once is enough"


async def test_an_organisation_that_has_not_approved_what_is_in_force_is_told_so(layout: Layout) -> None:
    """Its peer runs no contract until it has, though the code is the same."""
    upgrades = [
        Upgrade(ConnectionProfile.load(place.profile("admin")), Host.open(place.directory).load_consortium())
        for place in map(layout.organisation, ORGANISATIONS)
    ]
    following = (await upgrades[0].plan()).sequence + 1
    for upgrade in upgrades[:3]:
        definition = await upgrade.approve(following)
    await upgrades[0].commit(definition)
    network = Network.open(layout.directory)

    def list_errors() -> dict[str, str]:
        return {row.name: row.error for row in network.status() if row.error}

    errors = await asyncio.to_thread(list_errors)
    assert list(errors) == [f"contract-{ORGANISATIONS[3]}"]
    assert f"definition {following} is in force, and this organisation has not approved it" in errors.popitem()[1]
    await asyncio.to_thread(network.up, lambda _: None)
    assert await asyncio.to_thread(list_errors) == {}
    assert (await upgrades[3].plan()).sequence == following


def test_up_with_other_code_changes_nothing_until_it_is_named(layout: Layout, others: list[Path]) -> None:
    before, name = shown(layout), name_of(others[0])
    assert before["approved"] == sorted(ORGANISATIONS)
    assert (before["collections"], before["version"]) == (["sealed", "models"], read_release().name)
    refused = up(others[0], layout)
    assert refused.returncode == 1
    assert f"code is {read_release().name}, and would become {name}" in refused.stderr
    assert "blockfl/contract/credits.py: changed" in refused.stderr
    assert f"--upgrade {name}" in refused.stderr
    assert shown(layout) == before
    asyncio.run(ask_all(layout))

    agreed = up(others[0], layout, "--upgrade", name)
    assert agreed.returncode == 0, agreed.stderr
    assert f"contract blockfl: definition {before['sequence'] + 1} is in force" in agreed.stderr
    after = shown(layout)
    assert (after["sequence"], after["approved"], after["version"]) == (
        before["sequence"] + 1,
        sorted(ORGANISATIONS),
        name,
    )
    asyncio.run(ask_all(layout))
    assert up(others[0], layout).returncode == 0
    assert shown(layout) == after

    # The release that was in force before is not brought back by accident, nor by whoever means an upgrade.
    with pytest.raises(NetworkError, match=rf"was in force before(.|\n)*--downgrade {read_release().name}"):
        Network.open(layout.directory).up(lambda _: None, Agreement(upgrade=read_release().name))
    assert shown(layout) == after
    asyncio.run(ask_all(layout))


def approve(python: Path, layout: Layout, organisation: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """An administrator's part in an upgrade, with the release of an installation."""
    profile = layout.organisation(organisation).profile("admin")
    return run_other(python, "network", "contract", "approve", "--profile", str(profile), *arguments)


def test_organisations_approve_one_by_one_and_a_majority_commits(layout: Layout, others: list[Path]) -> None:
    first, second = others[1:]
    assert up(first, layout, "--upgrade", name_of(first)).returncode == 0
    sequence, name = shown(layout)["sequence"], name_of(second)
    record = ("--consortium", str(layout.description))
    unasked = approve(second, layout, "coordinator", *record)
    assert unasked.returncode == 1
    assert f"{name_of(first)}, and would become {name}" in unasked.stdout
    said = approve(second, layout, "coordinator", "--yes").stdout
    assert f"version {name}, definition {sequence + 1}" in said
    assert "approved by: coordinator\n" in said
    assert "not by: hospital, regulator, university" in said
    commit = ("network", "contract", "commit", "--profile")
    early = run_other(second, *commit, str(layout.organisation("coordinator").profile("admin")))
    assert "more than half of 4 organisations, got 1 (coordinator); missing: hosp" in early.stderr
    for organisation in ("regulator", "university"):
        assert approve(second, layout, organisation, "--yes", *record).returncode == 0
        # Once more changes nothing.
        assert organisation in approve(second, layout, organisation, "--yes", *record).stdout
    committed = run_other(second, *commit, str(layout.organisation("regulator").profile("admin")), *record)
    assert f"definition {sequence + 1} is in force" in committed.stderr
    assert shown(layout, "regulator")["approved"] == ["coordinator", "regulator", "university"]

    # Going back needs more than a yes.
    back = approve(first, layout, "university", "--yes", *record)
    assert back.returncode == 1
    assert f"{name_of(first)} is older than {name}; to go back to it nevertheless: --downgrade" in back.stderr
    # Whoever brings the network up with the release that was overtaken does not overrule the others.
    overtaken = up(first, layout)
    assert "others have approved it" in overtaken.stderr
    assert shown(layout, "regulator")["version"] == name
    # With the one in force, each begins its contract service anew.
    assert up(second, layout, "--upgrade", name).returncode == 0
    assert shown(layout)["approved"] == sorted(ORGANISATIONS)
    asyncio.run(ask_all(layout))


def test_a_record_of_another_contract_is_refused(layout: Layout, tmp_path: Path) -> None:
    path = tmp_path / "consortium.yaml"
    path.write_text(layout.description.read_text().replace("contract: blockfl", "contract: other"))
    with pytest.raises(NetworkError, match="expected the record of contract blockfl on channel federation, got one of"):
        contract(layout, "hospital", "approve", "--consortium", str(path))
