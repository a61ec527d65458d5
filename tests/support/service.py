"""The files of a contract service: its configuration, keys and certificates."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blockfl.protocol.records import Consortium
from support.shim_peer import ShimTls

PACKAGE_ID = "blockfl:" + "ab" * 32
OPENING_KEY = "1f" * 32


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
