"""The external builder with which a peer takes a contract that runs as a service: detect, build, release.

Fabric's images and releases have one; this does the same for peers that run as plain processes. It is executed by the
peer, with nothing but the standard library: ``builder.py detect|build|release DIRECTORY…``.

What differs from peer to peer (where the service listens, with what TLS) comes from the peer's environment, in the
variable ``CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG``, and is filled into the package's ``connection.json``. A value is a
text, or ``{"file": PATH}`` for the content of a file, so that no key has to stand in an environment.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

CONFIGURATION_VARIABLE = "CHAINCODE_AS_A_SERVICE_BUILDER_CONFIG"
TYPE = "ccaas"
_CONNECTION = "connection.json"
_PLACEHOLDER = re.compile(r"\{\{\s*\.(\w+)\s*\}\}")


class BuilderError(Exception):
    """The package cannot be built; the peer shows the text to the administrator that installs it."""


def detect(metadata: Path) -> bool:
    """Whether a package is a contract that runs as a service."""
    content = _read_json(metadata / "metadata.json")
    return str(content.get("type", "")).lower() == TYPE


def build(source: Path, metadata: Path, output: Path) -> None:
    """Take over what a package says.

    Args:
        source: The package's code: ``connection.json`` and perhaps ``META-INF``.
        metadata: Directory of the package's ``metadata.json``.
        output: Where the result goes.

    Raises:
        BuilderError: It is no such package.
    """
    if not detect(metadata):
        raise BuilderError(f"expected a package of the type {TYPE}")
    connection = _read_json(source / _CONNECTION)
    shutil.copy(metadata / "metadata.json", output)
    if (source / "META-INF").is_dir():
        shutil.copytree(source / "META-INF", output / "META-INF", dirs_exist_ok=True)
    (output / _CONNECTION).write_text(json.dumps(connection))


def release(built: Path, released: Path, values: Mapping[str, object]) -> None:
    """Hand the connection to the peer with its own values filled in, and indexes if there are any.

    Only here: the result holds the key with which the peer dials, and the peer keeps what both steps give.

    Args:
        built: What ``build`` left.
        released: Where the result goes.
        values: What the placeholders ``{{.name}}`` stand for.

    Raises:
        BuilderError: There is no connection, or a value is missing.
    """
    connection = {name: _fill(value, values) for name, value in _read_json(built / _CONNECTION).items()}
    server = released / "chaincode" / "server"
    server.mkdir(parents=True, exist_ok=True)
    _write_private(server / _CONNECTION, json.dumps(connection).encode())
    indexes = built / "META-INF" / "statedb"
    if indexes.is_dir():
        shutil.copytree(indexes, released / "statedb", dirs_exist_ok=True)


def main(arguments: list[str]) -> int:
    """Run one step as the peer calls it; return the exit code."""
    try:
        match arguments:
            case ["detect", _, metadata]:
                return 0 if detect(Path(metadata)) else 1
            case ["build", source, metadata, output]:
                build(Path(source), Path(metadata), Path(output))
            case ["release", built, released]:
                release(Path(built), Path(released), read_values(os.environ.get(CONFIGURATION_VARIABLE) or "{}"))
            case _:
                raise BuilderError("expected detect SOURCE METADATA | build SOURCE METADATA OUTPUT | release IN OUT")
    except (BuilderError, OSError, ValueError) as error:
        sys.stderr.write(f"contract builder: {error}\n")
        return 1
    return 0


def read_values(text: str) -> dict[str, object]:
    """Return what the peer's environment says.

    Raises:
        BuilderError: It is no JSON object.
    """
    return _decode_object(text, CONFIGURATION_VARIABLE)


def _fill(value: object, values: Mapping[str, object]) -> object:
    if not isinstance(value, str):
        return value

    def replace(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise BuilderError(f"{CONFIGURATION_VARIABLE} of this peer says nothing of {found[1]!r}")
        match values[found[1]]:
            case str(text):
                return text
            case {"file": str(path)}:
                return _read_text(path)
            case other:
                raise BuilderError(f'expected a text or {{"file": PATH}} for {found[1]!r}, got {other!r}')

    return _PLACEHOLDER.sub(replace, value)


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError) as error:
        raise BuilderError(f"{CONFIGURATION_VARIABLE}: {path} cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, object]:
    try:
        return _decode_object(path.read_bytes(), path.name)
    except OSError as error:
        raise BuilderError(f"{path.name} cannot be read: {error}") from error


def _decode_object(text: str | bytes, name: str) -> dict[str, object]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BuilderError(f"{name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise BuilderError(f"expected an object in {name}, got {type(content).__name__}")
    return content


def _write_private(path: Path, content: bytes) -> None:
    """Write a file that holds a key: only the peer may read it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
