"""How the embedded node's launcher asks the node."""

import asyncio
from pathlib import Path

import pytest

from blockfl.fabric.operations import OperationsService
from blockfl.network.description import Description
from blockfl.network.embedded import EmbeddedLauncher
from blockfl.network.errors import NetworkError
from blockfl.network.foundation import list_hosts
from blockfl.network.layout import Layout
from blockfl.network.process import ProcessSpec, ProcessTable


async def test_the_node_of_this_machine_is_asked_directly_whatever_proxy_the_user_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"kind": "embedded", "height": 7, "organisations": {}, "error": "no room"}
    service = OperationsService("127.0.0.1:0", lambda: said)
    await service.start()
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(EmbeddedLauncher, "operations", service.address)
    layout = Layout(tmp_path)
    hosts = list_hosts(Description.load_default().for_ledger("embedded"), layout)
    processes = ProcessTable(tmp_path)
    launcher = EmbeddedLauncher(hosts, layout, processes)
    try:
        # While this network's node does not run, another network may have its address.
        (stranger,) = await asyncio.to_thread(launcher.status)
        processes.start(ProcessSpec(name="node", command=["/bin/sleep", "600"], environment={}))
        (row,) = await asyncio.to_thread(launcher.status)
        with pytest.raises(NetworkError, match="does not accept anything: no room"):
            await asyncio.to_thread(launcher.wait_until_ready, 5.0, [])
    finally:
        processes.stop(["node"], timeout_s=1)
        await service.stop()
    assert (stranger.height, stranger.error) == (None, "")
    assert (row.height, row.error) == (7, "no room")
