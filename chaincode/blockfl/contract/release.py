"""Which code this is: every file that the contract decides with, and the versions of what it imports.

The package that organisations install holds this list, so its id stands for the code that was reviewed: the same code
gives the same package everywhere, and other code another. A contract service compares the id that it is to serve under
with the one of its own code.

    release = read_release()
    release.name                 # "1-5f0c…": the version in the contract's definition
    package = package_release("blockfl", release)
"""

import hashlib
import importlib
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from blockfl.contract.definition import VERSION
from blockfl.fabric.transaction.package import package_contract, package_id, read_code
from blockfl.protocol.canonical import Digest, Record

RELEASE_FILE: Final = "release.json"
"""Of a package's code."""
DEPENDENCIES: Final = (
    "cryptography",
    "grpcio",
    "hyperledger-fabric-protos",
    "numpy",
    "protobuf",
    "pydantic",
    "rfc8785",
)
"""Distributions that the covered source imports; their own are pinned by them or decide nothing."""
_ROOMS: Final = ("blockfl.contract", "blockfl.protocol", "blockfl.fabric.shim")
_MODULES: Final = (
    "blockfl.fabric",
    "blockfl.fabric.errors",
    "blockfl.fabric.client",
    "blockfl.fabric.client.endpoint",
    "blockfl.fabric.identity",
    "blockfl.fabric.identity.chain",
    "blockfl.fabric.identity.msp",
    "blockfl.fabric.identity.policy",
    "blockfl.fabric.identity.process_memory",
    "blockfl.fabric.identity.signing",
    "blockfl.fabric.transaction",
    "blockfl.fabric.transaction.chaincode_definition",
    "blockfl.fabric.transaction.package",
    "blockfl.fabric.transaction.wire",
)
_DIGEST_CHARACTERS: Final = 16


class Release(Record):
    """The contract's code.

    Attributes:
        version: Of the contract's behaviour.
        files: SHA-256 of each file, by its path.
        dependencies: The installed version of each distribution.
    """

    version: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}$")]
    files: dict[str, Digest]
    dependencies: dict[str, str]

    @property
    def name(self) -> str:
        """What the definition calls it: the version and the beginning of the digest."""
        return f"{self.version}-{self.record_digest[:_DIGEST_CHARACTERS]}"


@cache
def read_release() -> Release:
    """Return the code of this installation, read once."""
    files: dict[str, str] = {}
    for name in _ROOMS:
        root = Path(next(iter(importlib.import_module(name).__path__)))
        for path in root.rglob("*"):
            place = path.relative_to(root)
            if path.is_file() and "__pycache__" not in place.parts:
                files[f"{name.replace('.', '/')}/{place.as_posix()}"] = _digest(path)
    for name in _MODULES:
        path = Path(str(importlib.import_module(name).__file__))
        files[name.replace(".", "/") + ("/__init__.py" if path.stem == "__init__" else ".py")] = _digest(path)
    return Release(version=VERSION, files=files, dependencies={name: metadata.version(name) for name in DEPENDENCIES})


def package_release(contract: str, release: Release) -> bytes:
    """Return the contract's package; the same everywhere for the same code.

    Args:
        contract: The contract's name.
        release: Its code.
    """
    return package_contract(f"{contract}_{release.name}", code={RELEASE_FILE: release.encode()})


def read_packaged_release(package: bytes) -> Release:
    """Return the code for which a package stands.

    Raises:
        ConfigError: It is no package, or does not say.
        ProtocolError: What it says is not a release.
    """
    return Release.decode(read_code(package, RELEASE_FILE))


def identify_own_package(contract: str) -> str:
    """Return the id of the package that stands for the code of this installation."""
    return package_id(package_release(contract, read_release()))


def describe_change(before: Release, after: Release) -> list[str]:
    """Return what differs between two releases, a line for each file and distribution."""
    lines = [] if before.version == after.version else [f"contract: version {before.version} -> {after.version}"]
    lines += _differences(before.dependencies, after.dependencies, lambda old, new: f"{old} -> {new}")
    return lines + _differences(before.files, after.files, lambda old, new: f"changed ({old[:8]} -> {new[:8]})")


def _differences(before: Mapping[str, str], after: Mapping[str, str], changed: Callable[[str, str], str]) -> list[str]:
    lines = []
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            lines.append(f"{name}: {'added' if old is None else 'removed'}")
        elif old != new:
            lines.append(f"{name}: {changed(old, new)}")
    return lines


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
