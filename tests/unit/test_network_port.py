"""Ports: taken ones are named with who needs and who has them."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from blockfl.network.errors import NetworkError
from blockfl.network.port import parse_address, require_free_ports, wait_for_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_an_address_has_a_host_and_a_port() -> None:
    assert parse_address("127.0.0.1:7050") == ("127.0.0.1", 7050)


def test_a_taken_port_is_named_with_its_owner_and_what_to_do(taken: int) -> None:
    with pytest.raises(NetworkError) as refused:
        require_free_ports([(f"127.0.0.1:{taken}", "peer-hungary")])
    said = str(refused.value)
    assert f"127.0.0.1:{taken} for peer-hungary (in use by " in said
    assert f"pid {os.getpid()}" in said
    assert "--base-port" in said


def test_every_taken_port_is_named_and_a_free_one_is_not(taken: int) -> None:
    with socket.socket() as probe, socket.create_server(("127.0.0.1", 0)) as other:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
        probe.close()
        second = other.getsockname()[1]
        wanted = [(f"127.0.0.1:{port}", "node") for port in (taken, free, second)]
        with pytest.raises(NetworkError) as refused:
            require_free_ports(wanted)
    assert str(taken) in str(refused.value)
    assert str(second) in str(refused.value)
    assert f":{free} " not in str(refused.value)


def test_waiting_ends_when_somebody_listens() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        asked = threading.Event()

        def listen() -> None:
            asked.wait(10)
            reserved.listen()

        listener = threading.Thread(target=listen)
        listener.start()
        wait_for_port(f"127.0.0.1:{port}", 10, asked.set)
        listener.join()


def test_waiting_in_vain_ends_with_what_the_check_says_or_with_the_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"

        def ended() -> None:
            raise NetworkError("the process has ended")

        with pytest.raises(NetworkError, match="the process has ended"):
            wait_for_port(address, 10, ended)
        with pytest.raises(NetworkError, match=rf"{address}: nobody listens after 0 s"):
            wait_for_port(address, 0, lambda: None)
