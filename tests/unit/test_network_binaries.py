"""Fabric's own programs: found where the operator has them, refused when they are of another version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockfl.network.binaries import find_binaries
from blockfl.network.errors import NetworkError


def write_release(root: Path, version: str = "v3.1.5", *, orderer: str | None = None, beside: bool = False) -> Path:
    """What an unpacked release looks like; returns its ``bin``."""
    programs = root / "bin"
    programs.mkdir(parents=True)
    for name, told in (("peer", version), ("orderer", orderer or version)):
        path = programs / name
        path.write_text(f"#!/bin/sh\n[ \"$1\" = version ] && printf '{name}:\\n Version: {told}\\n OS/Arch: here\\n'\n")
        path.chmod(0o755)
    configuration = programs if beside else root / "config"
    configuration.mkdir(exist_ok=True)
    for name in ("core.yaml", "orderer.yaml"):
        (configuration / name).write_text("{}\n")
    return programs


def environment(**given: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **given}


@pytest.mark.parametrize("beside", [False, True])
def test_the_programs_of_fabric_bin_are_found_with_their_configuration(tmp_path: Path, beside: bool) -> None:
    programs = write_release(tmp_path, beside=beside)
    found = find_binaries(environment(FABRIC_BIN=str(programs)))
    assert (found.peer, found.orderer) == (programs / "peer", programs / "orderer")
    assert found.peer_configuration == found.orderer_configuration == (programs if beside else tmp_path / "config")
    assert found.version == "3.1.5"


def test_the_programs_on_the_path_are_found(tmp_path: Path) -> None:
    programs = write_release(tmp_path)
    assert find_binaries({"PATH": f"{programs}:/bin:/usr/bin"}).peer == programs / "peer"


def test_a_configuration_directory_of_ones_own_comes_first(tmp_path: Path) -> None:
    programs = write_release(tmp_path / "release")
    own = tmp_path / "own"
    own.mkdir()
    (own / "core.yaml").write_text("{}\n")
    found = find_binaries(environment(FABRIC_BIN=str(programs), FABRIC_CFG_PATH=str(own)))
    assert (found.peer_configuration, found.orderer_configuration) == (own, tmp_path / "release" / "config")


@pytest.mark.parametrize("version", ["v2.5.9", "v3.0.0", "v3.2.1", "v4.1.0"])
def test_another_version_is_refused(tmp_path: Path, version: str) -> None:
    programs = write_release(tmp_path, version)
    with pytest.raises(
        NetworkError, match=rf"expected Hyperledger Fabric 3\.1, .*peer is {version[1:]}; set FABRIC_BIN"
    ):
        find_binaries(environment(FABRIC_BIN=str(programs)))


def test_two_versions_are_refused(tmp_path: Path) -> None:
    programs = write_release(tmp_path, orderer="v3.1.4")
    with pytest.raises(NetworkError, match="peer and orderer of one version"):
        find_binaries(environment(FABRIC_BIN=str(programs)))


def test_no_programs_at_all_are_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="neither in FABRIC_BIN nor on the PATH; unpack"):
        find_binaries({"PATH": str(tmp_path)})
    with pytest.raises(NetworkError, match=rf"in FABRIC_BIN={tmp_path}, there is none that can be executed"):
        find_binaries({"PATH": str(tmp_path), "FABRIC_BIN": str(tmp_path)})


def test_a_program_that_is_not_fabrics_is_refused(tmp_path: Path) -> None:
    programs = write_release(tmp_path)
    (programs / "peer").write_text("#!/bin/sh\necho hello\n")
    with pytest.raises(NetworkError, match="to tell Fabric's version, it said 'hello'"):
        find_binaries(environment(FABRIC_BIN=str(programs)))


def test_missing_configuration_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    programs = write_release(tmp_path)
    (tmp_path / "config" / "orderer.yaml").unlink()
    with pytest.raises(NetworkError, match=rf"orderer\.yaml is in none of .*{tmp_path}/config; .*FABRIC_CFG_PATH"):
        find_binaries(environment(FABRIC_BIN=str(programs)))
