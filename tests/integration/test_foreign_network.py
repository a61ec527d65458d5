"""A network that Fabric's own tools made takes BlockFL on: what does not fit is named, and then rounds run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from blockfl.cli.main import app
from blockfl.ledger.profile import ConnectionProfile
from support.foreign_network import CHANNEL, ForeignNetwork, ForeignPeer, foreign_network

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignNetwork]:
    with foreign_network(tmp_path_factory.mktemp("foreign") / "network", 4) as running:
        yield running


def save_profile(peer: ForeignPeer, path: Path) -> Path:
    """What an operator writes about a peer and its administrator: where they are, and where the files lie."""
    ConnectionProfile(
        network="trade",
        channel=CHANNEL,
        contract="blockfl",
        organisation=peer.msp_id,
        endpoint=peer.address,
        tls_roots=str(peer.tls_roots),
        certificate=str(peer.certificate()),
        private_key=str(peer.key()),
        opening_key=None,
        genesis=None,
    ).save(path)
    return path


def check(peer: ForeignPeer, directory: Path) -> tuple[int, list[dict[str, Any]]]:
    profile = save_profile(peer, directory / "admin.json")
    result = CliRunner().invoke(app, ["network", "check", "--json", "--profile", str(profile)])
    return result.exit_code, json.loads(result.stdout)


def test_stock_settings_are_named_and_the_network_fits_when_they_are_mended(
    network: ForeignNetwork, tmp_path: Path
) -> None:
    code, misfits = check(network.peers[0], tmp_path)
    assert code == 1
    windows = [f"time window of {peer.msp_id}'s peer {peer.address}" for peer in network.peers]
    assert sorted(one["what"] for one in misfits) == windows
    network.restart_peers({"CORE_PEER_AUTHENTICATION_TIMEWINDOW": "30s"})
    assert check(network.peers[1], tmp_path) == (0, [])
