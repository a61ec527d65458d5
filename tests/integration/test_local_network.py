"""`blockfl network` on real Fabric: up, half-done and again, status, who administers, new keys, down."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from examples.port_range import reserve_ports

from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.participation import Participation
from blockfl.fabric.client.peer import Peer
from blockfl.fabric.errors import EndorseError, NodeError
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.keeper import KEEPER
from blockfl.network.layout import Layout
from blockfl.network.network import Network
from blockfl.network.stall import STALLED_S
from blockfl.protocol import catalogue
from support.ledgers import LEDGERS

WAIT_S = 90.0


def ignore(_: str) -> None:
    """Take no notice of progress."""


async def read_network(layout: Layout, organisation: str) -> str:
    """What an organisation's own peer and contract service answer."""
    async with Ledger(ConnectionProfile.load(layout.organisation(organisation).profile("agent"))) as ledger:
        return (await ledger.read(catalogue.CONSORTIUM.key())).network


def wait_until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    if reason := LEDGERS["local"]():
        pytest.skip(reason)
    directory = tmp_path_factory.mktemp("local") / "network"
    network = Network.prepare(directory, None, "local", base_port=reserve_ports(70))
    try:
        network.up(ignore)
        yield network
    finally:
        network.down()
        assert not directory.exists()


@pytest.fixture(scope="module")
def layout(network: Network) -> Layout:
    return network._layout


def heights(network: Network) -> set[int | None]:
    return {row.height for row in network.status() if row.name.startswith(("peer-", "orderer-"))}


@pytest.mark.slow
def test_every_process_runs_and_every_node_has_the_same_blocks(network: Network) -> None:
    rows = {row.name: row for row in network.status()}
    assert len(rows) == 4 + 7 + 7 + 1
    assert {row.state for row in rows.values()} == {"running"}
    assert [row.error for row in rows.values() if row.error] == []
    wait_until(lambda: len(heights(network)) == 1)
    assert heights(network) != {None}


@pytest.mark.slow
def test_up_again_changes_nothing_where_everything_runs(network: Network) -> None:
    before = {row.name: row.pid for row in network.status()}
    height = max(height or 0 for height in heights(network))
    network.up(ignore)
    assert {row.name: row.pid for row in network.status()} == before
    assert max(height or 0 for height in heights(network)) == height


@pytest.mark.slow
async def test_the_ordering_nodes_administration_is_for_its_own_administrators_alone(
    network: Network, layout: Layout
) -> None:
    organisation = network.description.organisation("regulator")
    place = layout.organisation("regulator")

    def client(certificate: Path, key: Path) -> Participation:
        return Participation(
            address=f"{organisation.host}:{organisation.ports.orderer_admin}",
            tls_roots_pem=place.tls_roots.read_bytes(),
            certificate=certificate,
            private_key=key,
        )

    administrator = client(place.user("admin", "tls-certificate.pem"), place.user("admin", "tls-key.pem"))
    assert await administrator.channels() == (network.description.channel,)
    strangers = {
        "its own node": (place.node("orderer", "tls-certificate.pem"), place.node("orderer", "tls-key.pem")),
        "its own peer": (place.node("peer", "tls-certificate.pem"), place.node("peer", "tls-key.pem")),
        "the signing administrator": (place.user("admin", "certificate.pem"), place.user("admin", "key.pem")),
        "an agent": (place.user("agent", "certificate.pem"), place.user("agent", "key.pem")),
        "the dialling peer": (
            place.node("contract", "client-certificate.pem"),
            place.node("contract", "client-key.pem"),
        ),
        "another organisation's administrator": (
            layout.organisation("university").user("admin", "tls-certificate.pem"),
            layout.organisation("university").user("admin", "tls-key.pem"),
        ),
    }
    for who, pair in strangers.items():
        with pytest.raises(NodeError):
            print(who, await client(*pair).channels())


@pytest.mark.slow
async def test_a_peer_that_has_joined_says_so_and_refuses_to_join_again(network: Network, layout: Layout) -> None:
    profile = ConnectionProfile.load(layout.organisation("hungary").profile("admin"))
    async with Peer(profile.make_endpoint(), profile.load_signer()) as peer:
        assert await peer.channels() == (network.description.channel,)
        with pytest.raises(EndorseError, match="JoinChain"):
            await peer.join(layout.organisation("hungary").genesis.read_bytes())
    agent = ConnectionProfile.load(layout.organisation("hungary").profile("agent"))
    async with Peer(profile.make_endpoint(), agent.load_signer()) as peer:
        assert await peer.height(network.description.channel) > 0
        with pytest.raises(EndorseError):
            await peer.join(layout.organisation("hungary").genesis.read_bytes())


@pytest.mark.slow
async def test_a_contract_service_answers_nobody_but_its_own_peer(network: Network, layout: Layout) -> None:
    organisation = network.description.organisation("regulator")
    place, other = layout.organisation("regulator"), layout.organisation("university")

    async def reaches(certificate: Path | None, key: Path | None) -> bool:
        endpoint = Endpoint(
            address=f"{organisation.host}:{organisation.ports.contract}",
            tls_roots_pem=place.tls_roots.read_bytes(),
            client_certificate=certificate.read_bytes() if certificate else None,
            client_key=key.read_bytes() if key else None,
        )
        async with endpoint.open_channel() as channel:
            try:
                async with asyncio.timeout(2):
                    await channel.channel_ready()
            except TimeoutError:
                return False
            return True

    own = place.node("contract", "client-certificate.pem"), place.node("contract", "client-key.pem")
    assert await reaches(*own)
    assert not await reaches(None, None)
    assert not await reaches(other.node("contract", "client-certificate.pem"), other.node("contract", "client-key.pem"))
    assert not await reaches(place.node("peer", "tls-certificate.pem"), place.node("peer", "tls-key.pem"))


@pytest.mark.slow
def test_what_is_killed_is_told_and_started_again_by_the_keeper(network: Network) -> None:
    victim = "peer-longbeach"
    pid = next(row.pid for row in network.status() if row.name == victim)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: next(row for row in network.status() if row.name == victim).pid not in (pid, None))
    wait_until(lambda: len(heights(network)) == 1)
    assert "peer-longbeach had ended and was started again" in network.logs(KEEPER, 20)


async def register_key(layout: Layout, public_key: str) -> None:
    """Have the regulator register an opening key, unless that was done already or nobody orders it."""
    async with Ledger(ConnectionProfile.load(layout.organisation("regulator").profile("agent"))) as ledger:
        with contextlib.suppress(LedgerError):
            await ledger.register_committee_key(public_key)


async def read_key(layout: Layout) -> str:
    """The regulator's opening key, as its own peer has it."""
    async with Ledger(ConnectionProfile.load(layout.organisation("regulator").profile("agent"))) as ledger:
        keys = {key.organisation: key.public_key for key in await ledger.read_all(catalogue.COMMITTEE_KEYS.below())}
        return keys.get("regulator", "")


def stalled(network: Network) -> set[str]:
    """The ordering nodes of which `network status` says that they have work and make no progress."""
    return {row.name for row in network.status() if row.error.startswith("has made no progress for")}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ordering_that_stands_still_begins_anew_and_goes_on(network: Network, layout: Layout) -> None:
    """Two of four BFT nodes stop answering: the other two have a request and cannot order it."""
    pids = {row.name: row.pid for row in network.status()}
    paused = [pid for name in ("orderer-university", "orderer-cleveland") if (pid := pids[name]) is not None]
    public_key = X25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as pool:
            written = pool.submit(asyncio.run, register_key(layout, public_key))
            wait_until(lambda: stalled(network) >= {"orderer-coordinator", "orderer-regulator"}, STALLED_S)
            wait_until(lambda: "begins anew: " in network.logs(KEEPER, 20), 4 * STALLED_S)
            for pid in paused:
                os.kill(pid, signal.SIGCONT)
            written.result()
    finally:
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: len(heights(network)) == 1)
    wait_until(lambda: not stalled(network))
    asyncio.run(register_key(layout, public_key))
    wait_until(lambda: asyncio.run(read_key(layout)) == public_key)
    # One that was paused may begin anew, too, when it answers again and has not caught up.
    begun = {name for name in pids if f"{name} made no progress for" in network.logs(KEEPER, 50)}
    assert begun & {"orderer-coordinator", "orderer-regulator"}


@pytest.mark.slow
def test_logs_are_of_one_process_and_an_unknown_one_is_named(network: Network) -> None:
    assert network.description.channel in network.logs("peer-hungary", 200)
    with pytest.raises(NetworkError, match=r"no process nobody; there are contract-cleveland, .*peer-university"):
        network.logs("nobody", 5)


@pytest.mark.slow
def test_a_stopped_network_continues_where_it_was(network: Network, layout: Layout) -> None:
    wait_until(lambda: len(heights(network)) == 1)
    before = heights(network)
    assert KEEPER in network.stop()
    assert {row.state for row in network.status()} == {"stopped"}
    network.up(ignore)
    wait_until(lambda: len(heights(network)) == 1)
    assert heights(network) == before, "nothing had to be done again"
    assert asyncio.run(read_network(layout, "cleveland")) == network.description.network


@pytest.mark.slow
def test_a_node_that_has_lost_its_ledger_fetches_it_from_the_others(network: Network, layout: Layout) -> None:
    network.stop()
    shutil.rmtree(layout.organisation("switzerland").data("peer"))
    network.up(ignore)
    wait_until(lambda: len(heights(network)) == 1)
    # What its organisation approved was at this peer alone: without it no contract would run there.
    assert asyncio.run(read_network(layout, "switzerland")) == network.description.network


@pytest.mark.slow
def test_new_keys_with_an_old_ledger_are_refused_with_what_to_do(network: Network, layout: Layout) -> None:
    network.stop()
    kept = layout.directory / "kept"
    layout.organisation("hungary").directory.rename(kept)
    try:
        with pytest.raises(NetworkError, match=r"says of hungary another signing_roots, .*put the former keys back"):
            network.up(ignore)
    finally:
        shutil.rmtree(layout.organisation("hungary").directory)
        kept.rename(layout.organisation("hungary").directory)
    network.up(ignore)


@pytest.mark.slow
def test_a_volume_of_another_network_is_refused_with_what_to_do(network: Network, layout: Layout) -> None:
    network.stop()
    marker = layout.organisation("regulator").data("orderer") / "channel.json"
    content = marker.read_text()
    marker.write_text('{"genesis": "' + "0" * 64 + '"}\n')
    with pytest.raises(NetworkError, match=r"regulator/data/orderer holds the ledger of another channel, .* or delete"):
        network.up(ignore)
    marker.write_text(content)
    network.up(ignore)


@pytest.mark.slow
def test_an_interrupted_up_is_finished_by_the_next_one(tmp_path: Path) -> None:
    if reason := LEDGERS["local"]():
        pytest.skip(reason)
    directory, port = tmp_path / "network", str(reserve_ports(70))
    command = [sys.executable, "-m", "blockfl.cli.main", "network", "up", "--ledger", "local", "-d", str(directory)]
    try:
        # Keys only; nodes started; channel joined and the contract on its way.
        reached = (
            lambda: (directory / "organisations" / "hungary").exists(),
            lambda: (directory / "run" / "orderer-coordinator.json").exists(),
            lambda: (directory / "organisations/hungary/data/peer/ledger/externalbuilder/builds").exists(),
        )
        for index, condition in enumerate(reached):
            ports = ["--base-port", port] if index == 0 else []
            with subprocess.Popen([*command, *ports], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as up:
                wait_until(lambda condition=condition, up=up: condition() or up.poll() is not None)  # type: ignore[misc]
                up.kill()
        network = Network.open(directory)
        network.up(ignore)
        assert {row.state for row in network.status()} == {"running"}
        wait_until(lambda: len(heights(network)) == 1)
    finally:
        if (directory / "network.json").exists():
            Network.open(directory).down()


def test_too_few_ordering_nodes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    few = Description.load_default(40000)
    organisations = [one.model_copy(update={"orderer": index < 3}) for index, one in enumerate(few.organisations)]
    description = few.model_copy(update={"organisations": organisations})
    with pytest.raises(NetworkError, match="BFT ordering needs at least 4"):
        Network.prepare(tmp_path / "network", description, "local")
    assert not (tmp_path / "network").exists()


def test_missing_programs_are_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FABRIC_BIN", str(tmp_path))
    with pytest.raises(NetworkError, match="there is none that can be executed"):
        Network.prepare(tmp_path / "network", None, "local")
    assert not (tmp_path / "network").exists()
