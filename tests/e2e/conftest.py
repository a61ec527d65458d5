"""One running federation for the end-to-end tests."""

from collections.abc import Iterator

import pytest
from examples.port_range import reserve_ports

from support.federation_processes import PORTS, FederationProcesses


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> Iterator[FederationProcesses]:
    """The default consortium, its three aggregators running."""
    running = FederationProcesses(tmp_path_factory.mktemp("federation"), reserve_ports(PORTS), ledger_kind)
    try:
        running.up()
        running.start_aggregators()
        yield running
    finally:
        running.down()
