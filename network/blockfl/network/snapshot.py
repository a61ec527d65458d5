"""A peer's ledger from a snapshot: what another organisation's peer held after a block, instead of every block before.

Peers that have committed the same blocks write the same files, so organisations compare one digest. Private data is not
among them: the peer that joins fetches what it is entitled to from the others.

Example:
    taken = await take_snapshot(host, print, timeout_s=600)
    pack_snapshot(taken, Path("snapshot.tar.gz"))
    unpack_snapshot(Path("snapshot.tar.gz"), other.layout)
"""

import asyncio
import hashlib
import json
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blockfl.fabric.client.snapshot import request_snapshot
from blockfl.ledger.profile import ConnectionProfile
from blockfl.network.errors import NetworkError
from blockfl.network.host import Host
from blockfl.network.layout import OrganisationLayout
from blockfl.network.participation import ChannelNodes
from blockfl.network.volume import claim_volume

Report = Callable[[str], None]
_SIGNABLE = "_snapshot_signable_metadata.json"
_ADDITIONAL = "_snapshot_additional_metadata.json"
_BLOCK_BYTES = 1 << 20
_POLL_S = 0.5


async def take_snapshot(host: Host, report: Report, timeout_s: float) -> Path:
    """Have an organisation's peer write a snapshot of its newest block; return its directory.

    Raises:
        NetworkError: It is not written in time.
        FabricError: The peer refuses, or cannot be reached.
    """
    profile = ConnectionProfile.load(host.layout.profile("admin"))
    completed = host.layout.data("peer") / "snapshots" / "completed" / profile.channel
    height = await ChannelNodes(host).read_peer_height() or 0
    taken = completed / str(height - 1)
    if not taken.is_dir():
        await request_snapshot(profile.make_endpoint(), profile.channel, profile.load_signer())
    deadline = time.monotonic() + timeout_s
    while not (found := _list_since(completed, height - 1)):
        if time.monotonic() > deadline:
            raise NetworkError(f"the peer has written no snapshot after {timeout_s:.0f} s; its log tells why")
        await asyncio.sleep(_POLL_S)
    report(f"a snapshot of block {found[-1].name}")
    return found[-1]


def pack_snapshot(directory: Path, output: Path) -> str:
    """Put a snapshot into one file for another organisation; nothing in it is secret within the channel.

    Returns:
        Its digest, which organisations compare.

    Raises:
        NetworkError: The file is there, or one cannot be read or written.
    """
    digest = _verify(directory)
    if output.exists():
        raise NetworkError(f"{output} is there already; name another file")
    partial = output.with_name(f"{output.name}.partial")
    try:
        with tarfile.open(partial, "w:gz") as archive:
            for path in sorted(directory.iterdir()):
                archive.add(path, path.name)
        partial.rename(output)
    except OSError as error:
        raise NetworkError(f"{error.filename or output}: cannot be written ({error.strerror})") from error
    return digest


def unpack_snapshot(archive: Path, place: OrganisationLayout) -> str:
    """Lay a snapshot where the organisation's peer, which has no ledger yet, joins the channel from it.

    Returns:
        Its digest, which organisations compare.

    Raises:
        NetworkError: The peer has a ledger, or the file is damaged or none.
    """
    if place.snapshot.exists():
        return _verify(place.snapshot)  # the command is said again
    if (place.data("peer") / "ledger").exists():
        raise NetworkError(f"{place.data('peer')} holds a ledger already; a snapshot is for a peer that has none")
    claim_volume(place.data("peer"), place.genesis.read_bytes())
    target = place.snapshot.with_name("joined.partial")
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True, mode=0o700)
    try:
        with tarfile.open(archive, "r:gz") as files:
            for member in files:
                content = files.extractfile(member)
                if content is None or Path(member.name).name != member.name:
                    raise NetworkError(f"{archive}: {member.name[:200]!r} is nothing that a snapshot holds")
                with (target / member.name).open("wb") as file:
                    while block := content.read(_BLOCK_BYTES):
                        file.write(block)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise NetworkError(f"{archive} is no snapshot, or damaged: {error}") from error
    digest = _verify(target)
    target.rename(place.snapshot)
    return digest


def _list_since(completed: Path, block: int) -> list[Path]:
    found = [path for path in completed.glob("*") if path.name.isdecimal() and int(path.name) >= block]
    return sorted(found, key=lambda path: int(path.name))


def _verify(directory: Path) -> str:
    """Check that every file of a snapshot is as the snapshot says; return the digest that covers them all."""
    signable = _read(directory / _SIGNABLE)
    digest = hashlib.sha256((directory / _SIGNABLE).read_bytes()).hexdigest()
    named = signable.get("snapshot_files_raw_hashes")
    if not isinstance(named, dict) or _read(directory / _ADDITIONAL).get("snapshot_hash") != digest:
        raise NetworkError(f"{directory} holds no snapshot as Fabric's peers write it")
    there = {path.name for path in directory.iterdir()} - {_SIGNABLE, _ADDITIONAL}
    for name in sorted({*named, *there}):
        if name not in there or _hash(directory / name) != named.get(name):
            raise NetworkError(f"{directory}: {name} is not as the snapshot says; have it taken, or sent, again")
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise NetworkError(f"{path}: no snapshot as Fabric's peers write it: {error}") from error
    if not isinstance(content, dict):
        raise NetworkError(f"{path}: no snapshot as Fabric's peers write it")
    return content
