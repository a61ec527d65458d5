"""Which code this is: every file that the contract decides with, and the versions of what it imports.

The package that organisations install holds this list, so its id stands for the code that was reviewed: the same code
gives the same package everywhere, and other code another. A contract service compares the id that it is to serve under
with the one of its own code.

    release = read_release()
    release.name                 # "1-5f0c…": the version in the contract's definition
    package = package_release("blockfl", release)
"""

import ast
import hashlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata
from importlib.machinery import ModuleSpec
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
"""Covered with every file that they hold; of other rooms, what these import."""
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
    files = {}
    for name in _ROOMS:
        root = Path(next(iter(importlib.import_module(name).__path__)))
        for path in root.rglob("*"):
            place = path.relative_to(root)
            if path.is_file() and "__pycache__" not in place.parts:
                files[f"{name.replace('.', '/')}/{place.as_posix()}"] = path
    for name, path in _follow_imports([path for path in files.values() if path.suffix == ".py"]).items():
        files[name.replace(".", "/") + ("/__init__.py" if path.stem == "__init__" else ".py")] = path
    return Release(
        version=VERSION,
        files={name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
        dependencies={name: metadata.version(name) for name in DEPENDENCIES},
    )


def _follow_imports(paths: Sequence[Path]) -> dict[str, Path]:
    """Return the modules of ours that files import, and those that these import, with their packages."""
    found: dict[str, Path] = {}
    waiting = list(paths)
    while waiting:
        for name in _list_imports(waiting.pop()):
            spec = None if name in found else _find(name)
            if spec is not None and spec.origin is not None:
                found[name] = Path(spec.origin)
                waiting.append(found[name])
    return found


def _list_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            if parts[0] == "blockfl":
                yield from (".".join(parts[:length]) for length in range(2, len(parts) + 1))


def _find(name: str) -> ModuleSpec | None:
    """Return where a module is; None for what a module merely defines."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


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
