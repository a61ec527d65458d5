"""Ledgers and keys that do not belong together are recognised before a node starts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.foundation import found
from blockfl.network.identities import provision_identities
from blockfl.network.layout import Layout, OrganisationLayout
from blockfl.network.volume import claim_volume, require_matching_keys

DESCRIPTION = Description.load_default(18000)
HUNGARY = DESCRIPTION.organisation("hungary")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    layout = Layout(tmp_path_factory.mktemp("network"))
    found(DESCRIPTION, layout)
    return layout


@pytest.fixture
def hungary(original: Layout, tmp_path: Path) -> OrganisationLayout:
    shutil.copytree(original.organisation("hungary").directory, tmp_path / "hungary")
    return OrganisationLayout(tmp_path / "hungary")


def test_a_volume_is_made_once_and_taken_again(tmp_path: Path) -> None:
    data = tmp_path / "data" / "peer"
    claim_volume(data, b"genesis")
    (data / "ledger").mkdir()
    claim_volume(data, b"genesis")
    assert data.stat().st_mode & 0o777 == 0o700
    assert (data / "tmp").is_dir()


def test_a_volume_of_another_channel_is_refused(tmp_path: Path) -> None:
    claim_volume(tmp_path / "peer", b"genesis")
    with pytest.raises(NetworkError, match=r"holds the ledger of another channel, or of one with other keys; .*delete"):
        claim_volume(tmp_path / "peer", b"another genesis")


def test_a_volume_that_somebody_else_filled_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    with pytest.raises(NetworkError, match="or delete"):
        claim_volume(tmp_path, b"genesis")


@pytest.mark.parametrize("step", [(Path, "mkdir"), (os, "open"), (os, "fdopen"), (Path, "rename")])
@pytest.mark.parametrize("times", [0, 1])
def test_a_volume_whose_making_was_interrupted_is_made_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str], times: int
) -> None:
    class Killed(BaseException):
        pass

    place, name = step
    done, count = getattr(place, name), 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += 1
        if count > times:
            raise Killed
        return done(*arguments, **options)

    with monkeypatch.context() as context, contextlib.suppress(Killed):
        context.setattr(place, name, interrupted)
        claim_volume(tmp_path / "peer", b"genesis")
    claim_volume(tmp_path / "peer", b"genesis")
    assert json.loads((tmp_path / "peer" / "channel.json").read_text()) == {"genesis": sha256(b"genesis").hexdigest()}
    assert (tmp_path / "peer" / "tmp").is_dir()


def test_a_damaged_marker_is_named(tmp_path: Path) -> None:
    claim_volume(tmp_path / "peer", b"genesis")
    (tmp_path / "peer" / "channel.json").write_text("{")
    with pytest.raises(NetworkError, match=r"channel\.json cannot be read"):
        claim_volume(tmp_path / "peer", b"genesis")


def test_keys_that_the_channel_knows_are_taken(hungary: OrganisationLayout) -> None:
    require_matching_keys(HUNGARY, hungary)


def test_new_keys_with_an_old_channel_are_refused(hungary: OrganisationLayout) -> None:
    for name in ("authority", "peer", "users"):
        shutil.rmtree(hungary.directory / name)
    provision_identities(HUNGARY, hungary)
    refusal = r"hungary/authority/tls-certificate\.pem is not one that the channel knows: .*network down"
    with pytest.raises(NetworkError, match=refusal):
        require_matching_keys(HUNGARY, hungary)


def test_a_new_tls_authority_with_an_old_channel_is_refused(hungary: OrganisationLayout) -> None:
    for suffix in ("certificate", "key"):
        hungary.tls_authority(suffix).unlink()
    provision_identities(HUNGARY, hungary)
    with pytest.raises(NetworkError, match=r"authority/tls-certificate\.pem is not one that the channel knows"):
        require_matching_keys(HUNGARY, hungary)


def test_a_damaged_first_block_is_named(hungary: OrganisationLayout) -> None:
    hungary.genesis.write_bytes(hungary.genesis.read_bytes()[:-10])
    with pytest.raises(NetworkError, match=r"genesis\.block: the channel's first block cannot be read"):
        require_matching_keys(HUNGARY, hungary)
