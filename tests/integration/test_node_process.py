"""The embedded node as a process of its own: started, stopped, killed, started again."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from benchmarks.meter import parse_counts

from blockfl.fabric.channel.changes import add_organisation, revoke_certificates
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.errors import FabricError
from support.consortium import CHANNEL, CONTRACT, Consortium, consortium
from support.disk import fill, small_disk
from support.http import ask
from support.key_value_contract import key_value_contract
from support.node_process import NodeProcess, running, spawn

NAMES = ("alpha", "beta", "gamma")


@pytest.fixture
async def network(tmp_path: Path) -> AsyncIterator[Consortium]:
    """A consortium whose contract is deployed and whose node is stopped; the contract services run."""
    async with consortium(tmp_path / "consortium", handler=key_value_contract, organisations=NAMES) as running:
        await running.stop_node()
        yield running


async def test_a_node_that_is_told_to_stop_does_so_in_order(network: Consortium, tmp_path: Path) -> None:
    async with running(network, tmp_path) as node:
        async with node.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Put", "k", "v")
        node.process.send_signal(signal.SIGTERM)
        assert await node.process.wait() == 0


async def test_what_was_acknowledged_before_a_kill_is_there_afterwards(network: Consortium, tmp_path: Path) -> None:
    acknowledged: list[str] = []

    async def put_for_ever(node: NodeProcess, client: int) -> None:
        async with node.gateway(NAMES[client]) as gateway:
            number = 0
            while True:
                key = f"{client}-{number}"
                await gateway.submit(CONTRACT, "Put", key, key, retries=0)
                acknowledged.append(key)
                number += 1

    for round_number in (1, 2, 3):
        wanted = 8 * round_number
        async with running(network, tmp_path) as node:
            clients = [asyncio.create_task(put_for_ever(node, client)) for client in range(3)]
            while len(acknowledged) < wanted:
                await asyncio.sleep(0)
            node.process.kill()
            results = await asyncio.gather(*clients, return_exceptions=True)
            assert all(isinstance(result, FabricError) for result in results)
    async with running(network, tmp_path) as node, node.gateway("beta") as gateway:
        found = await asyncio.gather(*(gateway.evaluate(CONTRACT, "Get", key) for key in acknowledged))
    assert [value.decode() for value in found] == acknowledged


async def test_a_configuration_acknowledged_before_a_kill_is_in_force_afterwards(
    network: Consortium, tmp_path: Path
) -> None:
    alpha = network.organisations["alpha"]
    thief = network.signer("alpha", "client", "thief")
    crl = alpha.signing.revoke([thief.identity.certificate_pem])
    async with running(network, tmp_path) as node:
        config = await node.config()
        await node.reconfigure(config, revoke_certificates(config, "alpha", crl), ["alpha"])
        node.process.kill()
        await node.process.wait()
    async with running(network, tmp_path) as node:
        assert (await node.config()).sequence == 1
        async with Gateway(node.endpoint("beta"), thief, CHANNEL) as gateway:
            with pytest.raises(FabricError, match=r"access denied: channel \[\w+\] creator org \[alpha\]"):
                await gateway.submit(CONTRACT, "Put", "k", "v")
        async with node.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Put", "k", "v")


async def test_a_running_node_takes_up_an_organisation_that_was_added_to_its_settings(
    network: Consortium, tmp_path: Path
) -> None:
    async with running(network, tmp_path) as node:
        epsilon = await network.invite("epsilon", key_value_contract)
        assert network.settings is not None
        settings = network.settings.model_copy(update={"operations_listen": node.settings.operations_listen})
        (tmp_path / "node.json").write_text(settings.model_dump_json())
        node.process.send_signal(signal.SIGHUP)
        await node.wait_for_line("epsilon is not on the channel testchannel")
        config = await node.config()
        await node.reconfigure(config, add_organisation(config, epsilon.spec()), NAMES[:2])
        address = (await node.wait_for_line("epsilon listens on")).split()[-1]
        async with node.gateway("epsilon", address) as gateway:
            assert await gateway.peer_height("epsilon") > 1
        (tmp_path / "node.json").write_text("{}")
        node.process.send_signal(signal.SIGHUP)
        await node.wait_for_line("the settings were not taken up")
        assert (await node.ask(b"GET /healthz HTTP/1.1\r\n\r\n"))[0] == 200


async def test_the_operations_address_tells_how_the_node_is(network: Consortium, tmp_path: Path) -> None:
    async with running(network, tmp_path) as node:
        assert await node.ask(b"GET /healthz HTTP/1.1\r\n\r\n") == (200, {"status": "OK"})
        code, status = await node.ask(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (code, status["channel"], status["error"]) == (200, CHANNEL, None)
        assert set(status["organisations"]) == set(NAMES)
        assert status["height"] > 1
        assert node.settings.operations_listen is not None
        _, metrics = await ask(node.settings.operations_listen, "/metrics")
        height = f'blockfl_ledger_height{{channel="{CHANNEL}"}} {float(status["height"])}'
        assert {height, "blockfl_ledger_failed 0.0"} <= set(metrics.splitlines())
        for name in NAMES:
            assert f'blockfl_certificate_end_seconds{{organisation="{name}",use="peer TLS"}}' in metrics
        assert (await node.ask(b"POST /status HTTP/1.1\r\n\r\n"))[0] == 405
        assert (await node.ask(b"GET /secrets HTTP/1.1\r\n\r\n"))[0] == 404
        assert (await node.ask(b"\xff" * 20_000))[0] == 400


async def test_the_node_counts_what_it_does(network: Consortium, tmp_path: Path) -> None:
    async with running(network, tmp_path) as node, node.gateway("alpha") as gateway:
        assert node.settings.operations_listen is not None
        before = parse_counts((await ask(node.settings.operations_listen, "/metrics"))[1])
        await gateway.submit(CONTRACT, "Put", "counted", "x" * 1000)
        await gateway.evaluate(CONTRACT, "Get", "counted")
        after = parse_counts((await ask(node.settings.operations_listen, "/metrics"))[1])
    added = {name: after[name] - before[name] for name in after}
    # A majority of the three; each asks its contract service, which writes.
    assert (added["transactions"], added["invalid"], added["endorsements"], added["evaluations"]) == (1, 0, 2, 1)
    assert added["requests"] == 4, "endorse, submit, commit status, evaluate"
    assert added["contract_messages"] >= 2 * 3
    assert added["syncs"] >= 2, "the block, and the state that it makes"
    assert all(added[name] > 1000 for name in added if name.endswith(("bytes", "bytes_sent", "bytes_received")))


async def test_a_port_in_use_is_named(network: Consortium, tmp_path: Path) -> None:
    async with running(network, tmp_path):
        process = await spawn(tmp_path / "node.json")
        _, errors = await process.communicate()
    assert process.returncode == 1
    assert "another process" in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_a_damaged_file_is_named_and_nothing_is_served(network: Consortium, tmp_path: Path) -> None:
    async with running(network, tmp_path):
        pass
    block_file = next(iter(sorted((network.directory / "node" / "ledger" / "blocks").iterdir())))
    content = bytearray(block_file.read_bytes())
    content[len(content) // 2] ^= 1
    block_file.write_bytes(content)
    process = await spawn(tmp_path / "node.json")
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert str(block_file.parent) in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_settings_that_make_no_sense_end_with_one_line(tmp_path: Path) -> None:
    path = tmp_path / "node.json"
    path.write_text("{}")
    process = await spawn(path)
    _, errors = await process.communicate()
    assert process.returncode == 1
    assert "is not a node's settings" in errors.decode()
    assert "Traceback" not in errors.decode()


async def test_a_node_whose_disk_is_full_ends_and_is_back_when_there_is_room(
    network: Consortium, tmp_path: Path
) -> None:
    assert network.settings is not None
    disk = tmp_path / "disk"
    with small_disk(disk, 16 << 20):
        shutil.copytree(network.settings.directory, disk / "node", symlinks=True)
        path = tmp_path / "node.json"
        path.write_text(network.settings.model_copy(update={"directory": disk / "node"}).model_dump_json())
        async with running(network, tmp_path) as node, node.gateway("alpha") as gateway:
            await gateway.submit(CONTRACT, "Put", "before", "kept")
            ballast = fill(disk)
            with pytest.raises(FabricError):
                await gateway.submit(CONTRACT, "Put", "meanwhile", "x" * 1_000_000, retries=0)
            _, errors = await node.process.communicate()
            assert node.process.returncode == 1
            assert "no room to write" in errors.decode().splitlines()[-1]
        process = await spawn(path)
        _, errors = await process.communicate()
        assert process.returncode == 1
        assert "no room to write" in errors.decode().splitlines()[-1], "it says so, too, when it is started again"
        ballast.unlink()
        async with running(network, tmp_path) as node, node.gateway("alpha") as gateway:
            assert await gateway.evaluate(CONTRACT, "Get", "before") == b"kept"
            await gateway.submit(CONTRACT, "Put", "k", "v")
