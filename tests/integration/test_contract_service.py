"""The contract service as a process: it serves over mutual TLS, says so, and stops when told."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import grpc
import pytest
from examples.port_range import reserve_ports

from blockfl.protocol.codes import Code
from blockfl.protocol.records import Consortium
from support.federation import NOW_MS, make_consortium
from support.http import ask
from support.other_installation import install_other
from support.service import (
    OPENING_KEY,
    PACKAGE_ID,
    START_S,
    ServiceFiles,
    running_service,
    start_service,
    write_service,
)
from support.shim_peer import ShimPeer, dial, event_of
from support.world import World

CHANNEL = "fed"


@pytest.fixture
def record() -> Consortium:
    return Consortium.model_validate({**dict(make_consortium()), "channel": CHANNEL})


@pytest.fixture
def files(tmp_path: Path, record: Consortium) -> ServiceFiles:
    return write_service(tmp_path, record, "regulator")


async def register(peer: ShimPeer, record: Consortium, world: World, tx_id: str = "t1") -> str:
    identity = world.signers["alpha"].identity
    response, _ = await peer.call(
        "RegisterConsortium", record.encode(), tx_id=tx_id, creator=identity, seconds=NOW_MS // 1000
    )
    return str(response.message)


async def test_it_says_who_it_is_without_its_secrets_and_runs_transactions(
    files: ServiceFiles, record: Consortium
) -> None:
    async with running_service(files) as (_, said):
        assert (said["organisation"], said["package_id"]) == ("regulator", PACKAGE_ID)
        assert said["consortium"] == record.record_digest
        assert said["opening_key"] not in (OPENING_KEY, "none")
        async with dial(files.tls.endpoint(said["address"])) as peer:
            assert peer.registered_as == PACKAGE_ID
            identity = World().signers["alpha"].identity
            response, event = await peer.call(
                "RegisterConsortium", record.encode(), creator=identity, seconds=NOW_MS // 1000
            )
            assert (response.status, response.payload) == (200, record.encode())
            assert event_of(event)[0] == "ConsortiumRegistered"
            assert peer.state == {("", "consortium"): record.encode()}


async def test_it_refuses_a_consortium_that_its_organisation_did_not_agree_to(
    files: ServiceFiles, record: Consortium
) -> None:
    other = Consortium.model_validate({**dict(record), "threshold": 3})
    async with running_service(files) as (_, said), dial(files.tls.endpoint(said["address"])) as peer:
        assert (await register(peer, other, World())).startswith(Code.CONSORTIUM_MISMATCH.identifier)
        assert peer.state == {}


async def test_it_tells_how_it_is_and_counts_what_it_runs(files: ServiceFiles, record: Consortium) -> None:
    address = f"127.0.0.1:{reserve_ports()}"
    files.change(operations_listen=address)
    async with running_service(files) as (_, said), dial(files.tls.endpoint(said["address"])) as peer:
        await register(peer, record, World())
        assert await ask(address, "/healthz") == (200, '{"status": "OK"}')
        _, metrics = await ask(address, "/metrics")
    assert 'blockfl_contract_calls_total{outcome="answered"} 1.0' in metrics
    assert 'blockfl_contract_peers{organisation="regulator"} 1.0' in metrics
    assert 'blockfl_certificate_end_seconds{organisation="regulator",use="contract TLS"}' in metrics


async def test_several_transactions_run_at_once(files: ServiceFiles, record: Consortium) -> None:
    async with running_service(files) as (_, said), dial(files.tls.endpoint(said["address"])) as peer:
        world = World()
        answers = await asyncio.gather(*(register(peer, record, world, f"t{number}") for number in range(20)))
        assert answers == [""] * 20


async def test_it_stops_when_told_and_reports_success(files: ServiceFiles) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        async with running_service(files) as (process, _):
            process.send_signal(number)
            assert await asyncio.wait_for(process.wait(), START_S) == 0


async def test_a_peer_without_a_certificate_of_the_right_authority_is_not_let_in(files: ServiceFiles) -> None:
    async with running_service(files) as (_, said):
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError, AssertionError)):
            async with dial(files.tls.endpoint(said["address"], authority=files.tls.services)):
                pass


async def test_it_does_not_start_with_wrong_settings_and_says_why(files: ServiceFiles) -> None:
    (files.directory / "opening-key").chmod(0o644)
    process = await start_service(files.config)
    out, problem = await asyncio.wait_for(process.communicate(), START_S)
    assert (process.returncode, out) == (1, b"")
    assert b"opening-key: expected a key that only its owner can read" in problem
    assert b"Traceback" not in problem


async def test_a_port_in_use_is_a_clear_error(files: ServiceFiles) -> None:
    async with running_service(files) as (_, said):
        files.change(listen=said["address"])
        process = await start_service(files.config)
        _, problem = await asyncio.wait_for(process.communicate(), START_S)
        assert process.returncode == 1
        assert b"cannot listen on" in problem
        assert b"Traceback" not in problem


async def test_a_wrong_command_line_is_told_by_the_exit_code(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "blockfl.contract", stderr=asyncio.subprocess.PIPE
    )
    _, problem = await process.communicate()
    assert process.returncode == 2
    assert b"--config" in problem


async def test_changed_source_is_not_served_under_the_package_that_was_reviewed(
    files: ServiceFiles, tmp_path: Path
) -> None:
    python = install_other(tmp_path / "other", "a change")
    process = await start_service(files.config, python)
    _, problem = await asyncio.wait_for(process.communicate(), START_S)
    assert process.returncode == 1
    assert b"this is other code than the package's" in problem
    assert PACKAGE_ID.encode() in problem
    files.change(other_code=True)
    async with running_service(files, python) as (_, said):
        assert said["package_id"] == PACKAGE_ID
        assert said["code"] not in PACKAGE_ID
