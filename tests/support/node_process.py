"""The embedded node as a process of its own, for a consortium whose contract services run in the test."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from examples.port_range import reserve_ports

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.update import build_update_envelope, compute_update, sign_update
from blockfl.fabric.client.broadcast import broadcast
from blockfl.fabric.client.deliver import read_config
from blockfl.fabric.client.endpoint import Endpoint
from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.embedded.settings import NodeSettings
from support.consortium import CHANNEL, Consortium

NAMES = ("alpha", "beta", "gamma")


class NodeProcess:
    """A running node."""

    def __init__(self, process: asyncio.subprocess.Process, settings: NodeSettings, network: Consortium) -> None:
        self.process = process
        self.settings = settings
        self._network = network

    def endpoint(self, organisation: str, address: str = "") -> Endpoint:
        known = {one.msp_id: one.listen for one in self.settings.organisations}
        roots = self._network.organisations[organisation].tls.certificate_pem
        return Endpoint(address=address or known[organisation], tls_roots_pem=roots)

    def gateway(self, organisation: str, address: str = "") -> Gateway:
        return Gateway(self.endpoint(organisation, address), self._network.signer(organisation), CHANNEL)

    async def config(self) -> ChannelConfig:
        return await read_config(self.endpoint("alpha"), CHANNEL, self._network.signer("alpha"))

    async def reconfigure(self, config: ChannelConfig, wanted: Any, signers: Sequence[str]) -> None:
        """Returns when the update is acknowledged."""
        update = compute_update(config.config, wanted, CHANNEL)
        signatures = [sign_update(update, self._network.signer(name, "admin")) for name in signers]
        envelope = build_update_envelope(update, signatures, self._network.signer("alpha"))
        await broadcast([self.endpoint("alpha", self.settings.orderer.listen)], envelope)

    async def wait_for_line(self, text: str) -> str:
        assert self.process.stderr is not None
        async with asyncio.timeout(60):
            while text not in (line := (await self.process.stderr.readline()).decode()):
                assert line, f"the process ended before it wrote {text!r}"
        return line

    async def ask(self, request: bytes) -> tuple[int, Any]:
        """One HTTP request to the operations address."""
        assert self.settings.operations_listen is not None
        host, _, port = self.settings.operations_listen.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body)


async def spawn(path: Path, open_files: int | None = None) -> asyncio.subprocess.Process:
    """Starts a node.

    Args:
        path: Its settings.
        open_files: How many files it may open at most; None: as many as this process.
    """
    command = [sys.executable, "-m", "blockfl.fabric.embedded", "--config", str(path)]
    if open_files is not None:
        command = ["/bin/sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *command]
    return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)


@asynccontextmanager
async def running(network: Consortium, tmp_path: Path, open_files: int | None = None) -> AsyncIterator[NodeProcess]:
    """The network's node as a process; killed at the end."""
    assert network.settings is not None
    path = tmp_path / "node.json"
    if not path.exists():
        operations = network.settings.model_copy(update={"operations_listen": f"127.0.0.1:{reserve_ports()}"})
        path.write_text(operations.model_dump_json())
    process = await spawn(path, open_files)
    try:
        assert process.stderr is not None
        lines = []
        while not (line := (await process.stderr.readline()).decode()).rstrip().endswith(": ready"):
            lines.append(line)
            assert line, "".join(lines)
        assert "the operator of this process sees and controls every organisation" in "".join(lines)
        yield NodeProcess(process, NodeSettings.load(path), network)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
