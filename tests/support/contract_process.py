"""A contract service in a process of its own, to be killed: `python -m support.contract_process SETTINGS`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from blockfl.fabric.client.lifecycle import package_id
from blockfl.fabric.shim import ContractServer, ServerTls
from blockfl.fabric.testing.network import Network
from support.key_value_contract import key_value_contract

_READY = b"ready\n"
_START_S = 60.0


def write_settings(network: Network, organisation: str) -> Path:
    """Write down what a process needs to take over an organisation's service, at the address that it has now."""
    home = network.directory / organisation
    certificate, key = network._tls[organisation]
    settings = {
        "address": (home / "service.address").read_text(),
        "package": package_id(network.package),
        "certificate": certificate.decode(),
        "private_key": key.decode(),
        "client_roots": (home / "tls-roots.pem").read_text(),
    }
    path = home / "service.json"
    path.touch(mode=0o600)
    path.write_text(json.dumps(settings))
    return path


@asynccontextmanager
async def contract_process(settings: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start one, wait until it serves, and kill it in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.contract_process",
        settings,
        cwd=Path(__file__).parents[1],
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            assert await process.stdout.readline() == _READY
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def serve(settings: Path) -> None:
    """Serve the key-value contract until killed."""
    found = json.loads(settings.read_text())
    tls = ServerTls(
        certificate=found["certificate"].encode(),
        private_key=found["private_key"].encode(),
        client_roots=found["client_roots"].encode(),
    )
    server = ContractServer(key_value_contract, found["package"], found["address"], tls)
    await server.start()
    sys.stdout.buffer.write(_READY)
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
