"""What the set-up container writes before any node runs; no Docker is needed to see it."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from pathlib import Path

import pytest
import yaml

from blockfl.contract.settings import ServiceSettings
from blockfl.fabric.channel.block import decode_block
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.compose import render_compose
from blockfl.network.containers import CONNECTION
from blockfl.network.description import Description, default_description
from blockfl.network.errors import NetworkError
from blockfl.network.layout import Layout
from blockfl.network.setup import main, provision, take_over

TEXT = default_description()
DESCRIPTION = Description.load_default()


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    directory = tmp_path_factory.mktemp("network")
    provision(directory, DESCRIPTION, "blockfl-heart")
    return Layout(directory)


def test_every_file_that_a_container_mounts_is_there(layout: Layout) -> None:
    services = yaml.safe_load(render_compose(DESCRIPTION, TEXT))["services"]
    prefix = "${BLOCKFL_STATE:-./network-data}/"
    mounted = {
        one.removeprefix(prefix).split(":")[0]
        for service in services.values()
        for one in service["volumes"]
        if isinstance(one, str) and one.startswith(prefix)
    }
    assert len(mounted) > 60
    assert [path for path in sorted(mounted) if not (layout.directory / path).exists()] == []


def test_nodes_are_on_the_channel_under_their_containers_names(layout: Layout) -> None:
    config = ChannelConfig.from_block(decode_block(layout.organisation("hungary").genesis.read_bytes()))
    assert sorted(f"{one.host}:{one.port}" for one in config.consenters) == [
        "orderer.cleveland:17083",
        "orderer.coordinator:17053",
        "orderer.regulator:17063",
        "orderer.university:17073",
    ]


def test_this_machine_and_containers_have_profiles_of_their_own(layout: Layout) -> None:
    place = layout.organisation("hungary")
    assert ConnectionProfile.load(place.profile("agent")).endpoint == "127.0.0.1:17090"
    inside = ConnectionProfile.load(place.profile("container-agent"))
    assert inside.endpoint == "peer.hungary:17090"
    assert inside.load_signer().identity.msp_id == "hungary"


def test_a_contract_service_can_be_started_from_its_settings(layout: Layout) -> None:
    settings = ServiceSettings.load(layout.organisation("regulator").service)
    assert settings.listen == "0.0.0.0:17061"
    assert settings.contract.opening_key is not None


def test_a_peer_learns_of_its_contract_service_from_a_private_file(layout: Layout) -> None:
    place = layout.organisation("hungary")
    path = place.node("peer", CONNECTION)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = json.loads(path.read_text())
    assert told["addr"] == "contract.hungary:17091"
    assert told["key"] == place.node("contract", "client-key.pem").read_text()


def test_private_keys_can_be_read_by_their_owner_only(layout: Layout) -> None:
    keys = [path for path in layout.directory.rglob("*") if re.search(r"key(\.pem)?$|connection", path.name)]
    assert len(keys) > 60
    assert [path for path in keys if path.stat().st_mode & 0o077] == []


def test_whoever_looks_at_the_network_finds_its_containers(layout: Layout) -> None:
    assert json.loads(layout.state.read_text()) == {"ledger": "compose", "project": "blockfl-heart"}


def test_a_second_time_nothing_changes(layout: Layout) -> None:
    def read() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in layout.directory.rglob("*") if path.is_file()}

    before = read()
    provision(layout.directory, DESCRIPTION, "blockfl-heart")
    assert read() == before


def test_another_description_is_refused(layout: Layout) -> None:
    with pytest.raises(NetworkError, match=r"holds a network of another description .*; name another directory"):
        provision(layout.directory, Description.load_default(18000), "blockfl-heart")


def test_new_keys_with_an_old_ledger_are_refused_with_what_to_do(tmp_path: Path) -> None:
    provision(tmp_path, DESCRIPTION, "p")
    place = Layout(tmp_path).organisation("hungary")
    for name in ("authority", "peer", "users"):
        shutil.rmtree(place.directory / name)
    with pytest.raises(NetworkError, match=r"was made with other keys; put the former\s+ones back"):
        provision(tmp_path, DESCRIPTION, "p")


def test_a_ledger_of_another_channel_is_refused_with_what_to_do(tmp_path: Path) -> None:
    provision(tmp_path / "one", DESCRIPTION, "p")
    provision(tmp_path / "two", DESCRIPTION, "p")
    ledgers = [Layout(tmp_path / name).organisation("hungary").data("peer") for name in ("one", "two")]
    (ledgers[0] / "ledger").mkdir()
    shutil.rmtree(ledgers[1])
    ledgers[0].rename(ledgers[1])
    with pytest.raises(NetworkError, match="holds the ledger of another channel, or of one with other keys"):
        provision(tmp_path / "two", DESCRIPTION, "p")


def test_authorities_keys_may_be_kept_elsewhere_once_everything_is_issued(tmp_path: Path) -> None:
    provision(tmp_path, DESCRIPTION, "p")
    layout = Layout(tmp_path)
    before = layout.organisation("hungary").tls_roots.read_bytes()
    for path in tmp_path.glob("organisations/*/authority/*-key.pem"):
        path.unlink()
    provision(tmp_path, DESCRIPTION, "p")
    assert layout.organisation("hungary").tls_roots.read_bytes() == before
    layout.organisation("hungary").node("peer", "key.pem").unlink()
    with pytest.raises(NetworkError, match=r"hungary/peer/certificate\.pem or its key is missing, .* put one of them"):
        provision(tmp_path, DESCRIPTION, "p")


def test_a_directory_of_another_user_is_refused_with_what_to_do(tmp_path: Path) -> None:
    mine = os.getuid()
    (tmp_path / "file").write_text("")
    with pytest.raises(NetworkError, match=rf"belongs to the user {mine}, .* set BLOCKFL_UID={mine}"):
        take_over(tmp_path, (mine + 4321, mine + 4321))


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "said"),
    [
        ([], {}, 2, "usage: "),
        (["provision"], {}, 2, "usage: "),
        (["provision", "DIRECTORY"], {}, 1, "error: BLOCKFL_CONSORTIUM, line 1"),
        (["provision", "DIRECTORY"], {"BLOCKFL_CONSORTIUM": "network: heart"}, 1, "error: BLOCKFL_CONSORTIUM, line 1"),
        (["bring-up", "DIRECTORY"], {}, 1, "consortium.yaml: cannot be read"),
    ],
)
def test_wrong_use_is_one_clear_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    environment: dict[str, str],
    code: int,
    said: str,
) -> None:
    assert main([str(tmp_path) if one == "DIRECTORY" else one for one in arguments], environment) == code
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1


def test_an_owner_is_a_pair_of_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert main(["provision", str(tmp_path)], {"BLOCKFL_OWNER": "me:1000"}) == 1
    assert "expected numbers in BLOCKFL_UID and BLOCKFL_GID, got me:1000" in capsys.readouterr().err
