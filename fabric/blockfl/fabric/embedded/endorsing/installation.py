"""The chaincode packages installed at one organisation's peer: files that survive the process.

Owns one directory. A file that does not match the hash in its name is damaged: it is named and not used.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from blockfl.fabric.embedded.endorsing.contract_host import ContractHost
from blockfl.fabric.embedded.endorsing.package import Package
from blockfl.fabric.errors import NodeError

_SUFFIX = ".tar.gz"


class Installation:
    """Installed packages, and the contract services they lead to.

    Args:
        directory: Holds one file per package.
        host: Dials the services.
        values: What this organisation fills into connection.json.

    Raises:
        NodeError: A package's file is damaged.
    """

    def __init__(self, directory: Path, host: ContractHost, values: Mapping[str, str]) -> None:
        self._directory = directory
        self._host = host
        self._values = values
        self.packages: dict[str, Package] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(directory.glob(f"*{_SUFFIX}")):
            self._load(path)

    def install(self, archive: bytes) -> Package:
        """Stores a package durably.

        Raises:
            NodeError: It is malformed, installed already, or cannot be stored.
        """
        try:
            package = Package.parse(archive)
        except NodeError as error:
            raise NodeError(f"could not parse as a chaincode install package: {error}") from error
        if package.package_id in self.packages:
            raise NodeError(f"chaincode already successfully installed (package ID '{package.package_id}')")
        try:
            address = package.service(self._values)
        except NodeError as error:
            raise NodeError(f"could not build chaincode: {error}") from error
        self._write(self._path(package), archive)
        self.packages[package.package_id] = package
        self._host.add(package.package_id, address)
        return package

    def read(self, package_id: str) -> bytes:
        """Returns an installed package's archive."""
        return self._path(self.packages[package_id]).read_bytes()

    def _load(self, path: Path) -> None:
        archive = path.read_bytes()
        if path.name != f"{sha256(archive).hexdigest()}{_SUFFIX}":
            raise NodeError(f"{path} is damaged: its hash is not its name: remove it and install the package again")
        package = Package.parse(archive)
        self.packages[package.package_id] = package
        self._host.add(package.package_id, package.service(self._values))

    def _path(self, package: Package) -> Path:
        return self._directory / f"{package.package_id.rpartition(':')[2]}{_SUFFIX}"

    def _write(self, path: Path, archive: bytes) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                file.write(archive)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            descriptor = os.open(self._directory, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise NodeError(f"could not save cc install package to {path}: {error.strerror}") from error
