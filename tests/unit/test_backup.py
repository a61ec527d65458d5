"""What of a network's directory is copied, and what comes back."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from examples.port_range import reserve_ports

from blockfl.network.backup import back_up, restore
from blockfl.network.errors import NetworkError
from blockfl.network.network import Network
from blockfl.network.process import ProcessSpec, ProcessTable
from support.federation_processes import PORTS

SECRET = "organisations/hungary/users/agent/key.pem"
PUBLIC = "organisations/hungary/users/agent/certificate.pem"
OTHER = "organisations/zurich/users/agent/key.pem"
OUTBOX = "organisations/hungary/data/agent/outbox/heart/000001/begun"
PEER = "organisations/hungary/data/peer/ledger/blocks"
FILES = {
    "consortium.yaml": 0o644,
    "network.json": 0o644,
    SECRET: 0o600,
    PUBLIC: 0o644,
    OTHER: 0o600,
    OUTBOX: 0o600,
    PEER: 0o600,
    "organisations/hungary/data/orderer/wal": 0o600,
    "organisations/hungary/data/aggregator/model": 0o600,
    "organisations/hungary/builder/bin/detect": 0o700,
    "organisations/hungary/run/one.json": 0o600,
    "organisations/hungary/lock": 0o600,
    "node/ledger/blocks": 0o600,
    "run/one.json": 0o600,
    "logs/one.log": 0o600,
    "lock": 0o600,
}


@pytest.fixture
def network(tmp_path: Path) -> Path:
    home = tmp_path / "network"
    for name, mode in FILES.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}")
        path.chmod(mode)
    return home


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_an_organisation_s_directory_without_logs_caches_ledger_or_an_ordering_node_s_data(
    network: Path, tmp_path: Path
) -> None:
    output = tmp_path / "hungary.backup"
    backup = back_up(network / "organisations" / "hungary", output)
    prefix = "organisations/hungary/"
    assert set(backup.files) == {name.removeprefix(prefix) for name in (SECRET, PUBLIC, OUTBOX)}
    assert set(backup.secrets) == {name.removeprefix(prefix) for name in (SECRET, OUTBOX)}
    assert output.stat().st_mode & 0o777 == 0o600


def test_a_machine_with_all_organisations_and_its_ledgers(network: Path, tmp_path: Path) -> None:
    without = set(back_up(network, tmp_path / "a").files)
    assert without == {"consortium.yaml", "network.json", SECRET, PUBLIC, OTHER, OUTBOX}
    whole = set(back_up(network, tmp_path / "b", has_ledger=True).files)
    assert whole - without == {PEER, "node/ledger/blocks"}


def test_what_is_restored_is_what_was_there_with_its_mode(network: Path, tmp_path: Path) -> None:
    back_up(network, tmp_path / "copy", has_ledger=True)
    home = tmp_path / "new"
    written = restore(tmp_path / "copy", home)
    assert set(written) == files_below(home)
    for name in written:
        assert (home / name).read_text() == f"content of {name}"
        assert (home / name).stat().st_mode & 0o777 == FILES[name]
    assert restore(tmp_path / "copy", home) == (), "again, it changes nothing"
    (home / SECRET).unlink()
    assert restore(tmp_path / "copy", home) == (SECRET,)


def test_nothing_that_is_there_is_replaced(network: Path, tmp_path: Path) -> None:
    back_up(network, tmp_path / "copy")
    (network / SECRET).write_text("another key")
    (network / PUBLIC).unlink()
    with pytest.raises(NetworkError, match=f"holds other files than the backup: {SECRET}; restore into a new"):
        restore(tmp_path / "copy", network)
    assert not (network / PUBLIC).exists(), "nothing was written before all was checked"
    with pytest.raises(NetworkError, match="is there already"):
        back_up(network, tmp_path / "copy")


def forge(path: Path, entries: dict[str, bytes], named: dict[str, bytes] | None = None) -> None:
    """An archive with these files, whose manifest names those."""
    files = {
        name: {"sha256": __import__("hashlib").sha256(content).hexdigest(), "mode": 0o600}
        for name, content in (entries if named is None else named).items()
    }
    manifest = json.dumps({"has_ledger": False, "files": files}).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {**entries, "backup.json": manifest}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside"])
def test_a_backup_that_leads_out_of_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    forge(tmp_path / "copy", {name: b"x"})
    with pytest.raises(NetworkError, match="is nothing that a backup holds"):
        restore(tmp_path / "copy", tmp_path / "home" / "network")
    assert not (tmp_path / "home").exists()


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    forge(tmp_path / "copy", {"data/key": b"x"})
    (tmp_path / "network").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "network" / "data").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NetworkError, match="leads out of"):
        restore(tmp_path / "copy", tmp_path / "network")
    assert not (tmp_path / "elsewhere" / "key").exists()


def test_a_damaged_backup_is_refused_as_a_whole(network: Path, tmp_path: Path) -> None:
    back_up(network, tmp_path / "copy")
    content = (tmp_path / "copy").read_bytes()
    cases = {"cut": content[: len(content) // 2], "none": b"", "text": b"no archive"}
    for name, damaged in cases.items():
        (tmp_path / name).write_bytes(damaged)
    forge(tmp_path / "more", {"a": b"1", "b": b"2"}, {"a": b"1"})
    forge(tmp_path / "less", {"a": b"1"}, {"a": b"1", "b": b"2"})
    forge(tmp_path / "other", {"a": b"1"}, {"a": b"2"})
    for name in (*cases, "more", "less", "other"):
        with pytest.raises(NetworkError, match=r"cannot be restored|is damaged, or no backup"):
            restore(tmp_path / name, tmp_path / "new")
        assert not files_below(tmp_path / "new")


def test_a_ledger_is_copied_only_while_nothing_runs(tmp_path: Path) -> None:
    home = tmp_path / "network"
    network = Network.prepare(home, None, "embedded", base_port=reserve_ports(PORTS))
    processes = ProcessTable(home)
    processes.start(ProcessSpec(name="node", command=["/bin/sleep", "600"], environment={}))
    try:
        with pytest.raises(NetworkError, match=r"is in use by .*, pid \d+; end them first: blockfl network stop"):
            network.back_up(tmp_path / "copy")
    finally:
        processes.stop(["node"], timeout_s=1)
    assert network.back_up(tmp_path / "copy").has_ledger
    shutil.rmtree(home)
    restore(tmp_path / "copy", home)
    assert Network.open(home).description == network.description
