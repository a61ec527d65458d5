"""An organisation joins a running network by `blockfl network up` with a longer description, however often it ends."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockfl.ledger.client import Ledger
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.administration import Administrator
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.protocol import catalogue
from blockfl.protocol.records import Consortium
from support.small_network import ORGANISATIONS, small_network

# Five times up takes a busy machine longer than the usual limit.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

WAIT_S = 400.0


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[Network]:
    with small_network(tmp_path_factory.mktemp("joining") / "network", ledger_kind) as running:  # type: ignore[arg-type]
        yield running


@pytest.fixture(scope="module")
def layout(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return Layout(next(path.parent for path in tmp_path_factory.getbasetemp().glob("joining*/network/network.json")))


def extended(layout: Layout, *names: str) -> str:
    """The network's description with further institutions, as an operator writes it."""
    description = Description.load(layout.description)
    lines = layout.description.read_text().replace(
        f"sequence: {description.sequence}\n", f"sequence: {description.sequence + 1}\n"
    )
    first = description.base_port + 10 * len(description.organisations)
    for index, name in enumerate(names):
        ports = {
            purpose: first + 10 * index + offset for offset, (purpose, _) in enumerate(description.orderers[0].ports)
        }
        lines += f"- {{name: {name}, roles: [institution], ports: {json.dumps(ports)}}}\n"
    return lines


async def read(layout: Layout, organisation: str) -> tuple[Consortium, int]:
    """The record and the height, as an organisation's agent sees them."""
    profile = ConnectionProfile.load(layout.organisation(organisation).profile("agent"))
    async with Ledger(profile) as ledger:
        return await ledger.read(catalogue.CONSORTIUM.key()), await ledger.gateway.height()


def up(layout: Layout, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "blockfl.cli.main", "network", "up", "-d", str(layout.directory)]
    command += ["--ledger", json.loads(layout.state.read_bytes())["ledger"], *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def is_on_channel(layout: Layout, name: str) -> bool:
    administrator = Administrator(ConnectionProfile.load(layout.organisation("hospital").profile("admin")))
    return name in asyncio.run(administrator.read()).application_organisations


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() in (None, 0), process.stderr.read().decode() if process.stderr else ""
        if process.poll() == 0:
            return
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def test_an_organisation_joins_ledger_contract_and_record_though_it_is_interrupted_again_and_again(
    network: Network, layout: Layout, tmp_path: Path
) -> None:
    path = tmp_path / "consortium.yaml"
    path.write_text(extended(layout, "clinic"))
    before = {row.name: row.pid for row in network.status()}
    # In the description; with keys; on the channel; and only then to the end.
    reached: tuple[Callable[[], bool], ...] = (
        lambda: "clinic" in layout.description.read_text(),
        lambda: layout.organisation("clinic").profile("agent").exists(),
        lambda: is_on_channel(layout, "clinic"),
    )
    for index, condition in enumerate(reached):
        with up(layout, *(["--consortium", str(path)] if index == 0 else [])) as process:
            wait_until(condition, process)
            process.kill()
    with up(layout) as process:
        said = process.communicate()[1].decode()
    assert process.returncode == 0, said
    for name in (*ORGANISATIONS, "clinic"):
        consortium, _ = asyncio.run(read(layout, name))
        assert consortium.sequence == 2
        assert [member.organisation for member in consortium.members] == sorted([*ORGANISATIONS, "clinic"])
    grown = Network.open(layout.directory)
    rows = {row.name: row for row in grown.status()}
    assert {row.state for row in rows.values()} == {"running"}
    assert "contract-clinic" in rows
    # Nodes went on; contract services began anew, with the record that they agree to now.
    for name, pid in before.items():
        assert (rows[name].pid != pid) == name.startswith("contract-"), name


def test_up_again_changes_nothing_after_that(network: Network, layout: Layout) -> None:
    grown = Network.open(layout.directory)
    before = {row.name: row.pid for row in grown.status()}
    _, height = asyncio.run(read(layout, "clinic"))
    grown.up(lambda _: None)
    assert {row.name: row.pid for row in grown.status()} == before
    assert asyncio.run(read(layout, "coordinator"))[1] == height


def test_a_stopped_network_continues_with_the_newcomer_and_takes_two_more(
    network: Network, layout: Layout, tmp_path: Path
) -> None:
    Network.open(layout.directory).stop()
    path = tmp_path / "consortium.yaml"
    path.write_text(extended(layout, "geneva", "oslo"))
    description = Description.load(path)
    grown = Network.prepare(layout.directory, description, json.loads(layout.state.read_bytes())["ledger"])
    said: list[str] = []
    grown.up(said.append)
    assert [line for line in said if "has joined" in line] == [
        f"{name} has joined the channel federation" for name in ("geneva", "oslo")
    ]
    for name in ("clinic", "oslo", "regulator"):
        consortium, _ = asyncio.run(read(layout, name))
        assert (consortium.sequence, len(consortium.members)) == (3, 7)


def test_other_keys_of_a_newcomer_are_refused(network: Network, layout: Layout) -> None:
    place = layout.organisation("clinic").directory
    kept = layout.directory / "kept"
    place.rename(kept)
    try:
        with pytest.raises(NetworkError, match=r"clinic.*is not one that the channel knows: put the former keys"):
            Network.open(layout.directory).up(lambda _: None)
    finally:
        shutil.rmtree(place)
        kept.rename(place)


REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "not the next": (lambda text: text.replace("sequence: 4", "sequence: 5"), "sequence: expected 4, got 5"),
    "another threshold": (lambda text: text.replace("threshold: 2", "threshold: 3"), "threshold: expected 2 as before"),
    "another network": (lambda text: text.replace("network: small", "network: big"), "network: expected small"),
    "a member less": (lambda text: text.replace("name: clinic\n", "name: clinique\n"), "clinic is a member"),
    "another ordering node": (
        lambda text: text.replace("  - institution\n  orderer: true", "  - institution\n  orderer: false"),
        "hospital is described otherwise",
    ),
    "an ordering node": (
        lambda text: text.replace("name: basel, ", "name: basel, orderer: true, "),
        "basel joins a running network: it can have a peer, and no ordering node yet",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_another_change_than_an_addition_is_refused_and_nothing_is_written(
    network: Network, layout: Layout, case: str
) -> None:
    edit, reason = REFUSED[case]
    before = layout.description.read_bytes()
    text = edit(extended(layout, "basel"))
    assert text != extended(layout, "basel")
    description = Description.parse(text, "new.yaml")
    with pytest.raises(NetworkError, match=reason) as refused:
        Network.prepare(layout.directory, description, json.loads(layout.state.read_bytes())["ledger"])
    assert "this one does not just add organisations" in str(refused.value)
    assert str(refused.value).endswith("; use another directory, or take it down first")
    assert layout.description.read_bytes() == before
