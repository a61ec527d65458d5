"""Every example of docs/fabric runs as it is printed, against the embedded node; what the pages point to exists."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from blockfl.fabric.channel.block import decode_block, header_hash
from blockfl.fabric.identity.signing import private_key_pem
from blockfl.fabric.shim import Context, ContractFault
from blockfl.fabric.testing import Network, embedded_network
from support.documentation import ROOT
from support.hardware import software_token

PAGES = ROOT / "docs" / "fabric"
_BLOCKS = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ROW = re.compile(r"^\|(.+)\|$", re.MULTILINE)
_TEST = re.compile(r"\[`(\w+)`\]\(\.\./\.\./(tests/[\w/]+\.py)\)")
MEMBERS = ("Org1MSP", "Org2MSP")
IN_ONE_SHELL = ("connect", "submit", "events", "validate", "contract")


def read_examples(page: str) -> list[str]:
    found = _BLOCKS.findall((PAGES / f"{page}.md").read_text())
    assert found, page
    return found


async def colours(context: Context) -> bytes:
    """What the pages call."""
    match context.function, context.args:
        case "Put", (key, value):
            await context.put_state(key.decode(), value)
            context.set_event("put", key)
            return b"put"
        case "Get", (key,):
            return await context.get_state(key.decode()) or b""
    raise ContractFault(f"there is no function {context.function}")


@contextlib.asynccontextmanager
async def reader(directory: Path) -> AsyncIterator[tuple[Network, dict[str, Any]]]:
    """A network, and what a page takes for given: endpoint, signer, and the files that it reads."""
    async with embedded_network(directory / "network", colours) as network:
        signer, endpoint = network.signer("Org1MSP"), network.endpoint("Org1MSP")
        (directory / "tls-roots.pem").write_bytes(endpoint.tls_roots_pem)
        (directory / "client.pem").write_bytes(signer.identity.certificate_pem)
        (directory / "client.key").write_bytes(private_key_pem(signer.private_key))
        names: dict[str, Any] = {"endpoint": endpoint, "signer": signer}
        exec("from blockfl.fabric.client.gateway import Gateway", names)
        yield network, names


async def run(code: str, names: dict[str, Any]) -> None:
    """Run an example in which `await` may be outside of a function, as in `python -m asyncio`."""
    compiled = compile(code, "<page>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)
    if inspect.isawaitable(result):
        await asyncio.wait_for(result, 60)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", IN_ONE_SHELL)
async def test_the_examples_of_a_page_run_one_after_the_other(
    page: str, shell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with reader(shell) as (network, names):
        await PREPARE.get(page, nothing)(network, names)
        for code in read_examples(page):
            await run(code.replace("localhost:7051", network.endpoint("Org1MSP").address), names)
    printed = capsys.readouterr().out
    for expected in PRINTED[page]:
        assert expected in printed


async def nothing(_: Network, __: dict[str, Any]) -> None:
    """Most pages need no more than what all have."""


async def pin(network: Network, names: dict[str, Any]) -> None:
    async with network.gateway("Org1MSP") as gateway:
        await gateway.submit("app", "Put", "colour", "violet")
    genesis = decode_block((network.directory / "genesis.block").read_bytes())
    names["pinned_hash"] = header_hash(genesis.header)


async def administrate(network: Network, names: dict[str, Any]) -> None:
    names["administrators"] = [network.gateway(one, "admin") for one in MEMBERS]
    names["other_peers"] = [network.endpoint("Org2MSP")]


Prepare = Callable[[Network, dict[str, Any]], Awaitable[None]]
PREPARE: dict[str, Prepare] = {"validate": pin, "contract": administrate}
PRINTED = {
    "connect": ["\nTrue\n"],
    "submit": ["b'blue'", "ABORTED", "there is no function Paint", "b'put'", "True "],
    "events": [" put b'colour'", "\n0\n", "[('", "1 {"],
    "validate": [" blocks; ", "violet"],
    "contract": ["b'Org1MSP'", "b'first'"],
}


async def test_the_examples_of_signing_elsewhere_run(shell: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec, utils

    async with reader(shell) as (network, names):
        key = network.signer("Org1MSP").private_key
        assert isinstance(key, ec.EllipticCurvePrivateKey)

        async def key_service(digest: bytes) -> bytes:
            return key.sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))

        names |= {"identity": network.signer("Org1MSP").identity, "key_service": key_service}
        *without_token, with_token = read_examples("offline-signing")
        for code in without_token:
            await run(code, names)
        assert "(b'Put', b'colour', b'green') b'put'\nTrue\n" in capsys.readouterr().out
        with software_token(shell / "token") as token:
            owner = token.make_identity(network.organisations["Org1MSP"], "operator")
            await run(with_token, names | {"token_identity": owner, "library": token.library, "pin": token.pin})


def run_python(*arguments: str, directory: Path) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    done = subprocess.run([sys.executable, *arguments], cwd=directory, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Without `site` nothing of ours is found but what is named here; of other packages, what this room needs.
ALONE = """
import importlib.abc, sys
sys.path[:0] = [{room!r}, {packages!r}]
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {refused!r}:
            raise ImportError(f"this room does without {{name}}")
sys.meta_path.insert(0, Refuse())
"""
NEEDED_ELSEWHERE = {"numpy", "rfc8785", "safetensors", "typer", "rich", "yaml", "psutil", "tensorflow", "docker"}


def test_the_quick_start_runs_with_this_room_and_its_packages_alone(tmp_path: Path) -> None:
    [code] = read_examples("README")
    packages = str(Path(grpc.__file__).parents[1])
    alone = ALONE.format(room=str(ROOT / "fabric"), packages=packages, refused=NEEDED_ELSEWHERE)
    (tmp_path / "start.py").write_text(alone + code)
    done = subprocess.run([sys.executable, "-I", "-S", "start.py"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


def test_the_examples_of_testing_run(tmp_path: Path) -> None:
    conftest, test = read_examples("pytest")
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_contract.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    said = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", directory=tmp_path)
    assert "2 passed" in said


def test_every_page_is_run_by_a_test() -> None:
    pages = {path.stem for path in PAGES.glob("*.md") if _BLOCKS.search(path.read_text())}
    assert pages == {*IN_ONE_SHELL, "offline-signing", "README", "pytest"}


def test_no_row_of_the_feature_table_is_empty_and_every_test_in_it_exists() -> None:
    text = (PAGES / "features.md").read_text()
    rows = [[cell.strip() for cell in row.split("|")] for row in _ROW.findall(text) if not set(row) <= set("|-: ")]
    rows = [row for row in rows if row[-1] != "test"]
    assert len(rows) > 40
    for row in rows:
        assert len(row) == 3, row
        assert all(row), row
        tests = _TEST.findall(row[-1])
        assert tests, row
        for name, path in tests:
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), (name, path)
