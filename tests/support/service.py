"""A contract service as a process, and its files: configuration, keys, certificates."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockfl.contract.release import identify_own_package
from blockfl.protocol.records import Consortium
from support.shim_peer import ShimTls

PACKAGE_ID = identify_own_package("blockfl")
OPENING_KEY = "1f" * 32
START_S = 60


@dataclass(frozen=True)
class ServiceFiles:
    """A directory with everything that a contract service reads."""

    directory: Path
    tls: ShimTls

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "service.json"

    def change(self, **fields: Any) -> None:
        """Change the configuration; None deletes nothing but writes null."""
        said = json.loads(self.config.read_text()) | fields
        self.config.write_text(json.dumps(said))

    def drop(self, field: str) -> None:
        """Leave a field out."""
        said = json.loads(self.config.read_text())
        del said[field]
        self.config.write_text(json.dumps(said))


def write_service(directory: Path, consortium: Consortium, organisation: str) -> ServiceFiles:
    """Write a service's files; keys have mode 0600."""
    tls = ShimTls()
    server = tls.server()
    (directory / "consortium.json").write_bytes(consortium.encode())
    (directory / "certificate.pem").write_bytes(server.certificate)
    (directory / "client-roots.pem").write_bytes(server.client_roots)
    for name, content in (("key.pem", server.private_key), ("opening-key", f"{OPENING_KEY}\n".encode())):
        (directory / name).touch(mode=0o600)
        (directory / name).write_bytes(content)
    files = ServiceFiles(directory, tls)
    files.config.write_text(
        json.dumps(
            {
                "organisation": organisation,
                "consortium": "consortium.json",
                "opening_key": "opening-key" if organisation in consortium.committee else None,
                "package_id": PACKAGE_ID,
                "listen": "127.0.0.1:0",
                "certificate": "certificate.pem",
                "private_key": "key.pem",
                "client_roots": "client-roots.pem",
            }
        )
    )
    return files


async def start_service(config: Path, python: Path = Path(sys.executable)) -> asyncio.subprocess.Process:
    """Start the process, of this installation or another."""
    return await asyncio.create_subprocess_exec(
        str(python),
        "-m",
        "blockfl.contract",
        "--config",
        str(config),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@asynccontextmanager
async def running_service(
    files: ServiceFiles, python: Path = Path(sys.executable)
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, str]]]:
    """A service that has said that it is ready, and what it said."""
    process = await start_service(files.config, python)
    assert process.stdout
    assert process.stderr
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), START_S)).decode()
        assert line.startswith("contract service ready: "), (await process.stderr.read()).decode()
        yield process, dict(word.split("=", 1) for word in line.split()[3:])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
