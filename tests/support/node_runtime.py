"""Node.js for the tests: the official packages installed once, the official client and chaincode run as processes."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.npm import install_packages
from support.organisation import Organisation

SOURCES = Path(__file__).parents[1] / "node"
_LINES_KEPT = 20
_START_S = 60


@dataclass(frozen=True, kw_only=True)
class NodeRuntime:
    """Node.js and the installed packages."""

    node: str
    modules: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"NODE_PATH": str(self.modules), "NODE_NO_WARNINGS": "1"}

    async def run_scenario(self, settings: dict[str, str], scenario: str, directory: Path) -> Any:
        """Runs a scenario of tests/node/client.js and returns what it prints."""
        path = directory / f"{scenario}.json"
        path.write_text(json.dumps(settings | {"directory": str(directory)}))
        process = await asyncio.create_subprocess_exec(
            self.node,
            str(SOURCES / "client.js"),
            str(path),
            scenario,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        assert process.returncode == 0, f"the official client failed:\n{errors.decode()}"
        return json.loads(output)


class NodeChaincode:
    """A contract on the official library, served by the library's own command."""

    def __init__(self, runtime: NodeRuntime, address: str, directory: Path, organisation: Organisation) -> None:
        self.address = address
        self._runtime = runtime
        self._directory = directory
        self._organisation = organisation
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, package_id: str, certificate: bytes, key: bytes) -> None:
        files = {
            "chaincode-tls-cert-file": certificate,
            "chaincode-tls-key-file": key,
            "chaincode-tls-client-cacert-file": self._organisation.tls.certificate_pem,
        }
        options = [f"--chaincode-address={self.address}", f"--chaincode-id={package_id}"]
        for name, content in files.items():
            path = self._directory / f"{name}.pem"
            path.write_bytes(content)
            options.append(f"--{name}={path}")
        with (self._directory / "node.log").open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                self._runtime.node,
                str(self._runtime.modules / "fabric-shim" / "cli.js"),
                "server",
                f"--module-path={SOURCES / 'contract'}",
                *options,
                env=self._runtime.environment,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
            )
        await self._await_listening()

    async def _await_listening(self) -> None:
        """Real peers dial a service once, and take a refused connection for the answer."""
        host, _, port = self.address.rpartition(":")
        async with asyncio.timeout(_START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, int(port))
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    await writer.wait_closed()
                    return

    def read_log(self) -> str:
        lines = (self._directory / "node.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LINES_KEPT:])

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()
            await process.wait()


def install_runtime() -> NodeRuntime:
    """Install the packages of tests/node once; without Node.js the tests are skipped, except in CI."""
    modules = install_packages(SOURCES, "the tests with the official Node client and chaincode need them")
    node = shutil.which("node")
    assert node is not None
    return NodeRuntime(node=node, modules=modules)
