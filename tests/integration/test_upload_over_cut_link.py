"""20 MB over a real connection that is cut in the middle: when it is back, only what is missing crosses it again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from blockfl.fabric.client.gateway import Gateway
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.transfer import IN_FLIGHT, fetch_blob, upload_blob
from blockfl.protocol.blob import split_blob
from blockfl.protocol.model import encode_model, manifest_of
from blockfl.protocol.records import CHUNK_BYTES
from blockfl.protocol.task import TaskSpec
from chaos.link import Link
from support.consortium import CHANNEL
from support.contract_network import ClientOfNetwork, contract_network
from support.scenario import make_spec

CHUNKS = 6
HELD = 2
"""Chunks that are there when the connection is cut."""
OVERHEAD_BYTES = CHUNK_BYTES // 2
"""Of TLS, of calls, and of reading what is there: far less than a chunk."""


def make_large_spec() -> tuple[TaskSpec, bytes]:
    values = np.random.default_rng(1).normal(size=(CHUNKS - 1) * CHUNK_BYTES // 4 + 1000).astype(np.float32)
    manifest = manifest_of({"kernel": values})
    content = encode_model(manifest, values)
    spec, _ = make_spec()
    return spec.model_copy(update={"manifest": manifest, "initial_model": split_blob(content)[0]}), content


async def test_only_what_is_missing_crosses_a_connection_that_was_cut(tmp_path: Path) -> None:
    spec, content = make_large_spec()
    blob, chunks = split_blob(content)
    assert len(content) > 20 * 1024 * 1024
    assert len(chunks) == CHUNKS
    async with contract_network(tmp_path, spec=(spec, content)) as (scenario, network):
        await scenario.register()
        ledger = ClientOfNetwork(network, "coordinator")
        await ledger.create_task(spec)
        cable = Link(network.network.endpoint("coordinator").address)
        await cable.open()
        endpoint = replace(network.network.endpoint("coordinator"), address=cable.address)
        try:
            async with Gateway(endpoint, ledger.signer, CHANNEL) as over_cable:
                ledger.gateway = over_cable

                closing: list[asyncio.Task[None]] = []

                def tear(done: int, total: int) -> None:
                    if done == HELD < total:
                        closing.append(asyncio.create_task(cable.close()))

                with pytest.raises(LedgerError):
                    await upload_blob(ledger, spec.task, blob, chunks, progress=tear)
                await asyncio.gather(*closing)
                await cable.open()
                present = await ledger.read_model_upload(spec.task, blob)
                first, missing = cable.carried_bytes, present.count(False)
                assert HELD <= CHUNKS - missing < CHUNKS
                assert first <= (HELD + IN_FLIGHT) * CHUNK_BYTES + OVERHEAD_BYTES

                told: list[tuple[int, int]] = []
                await upload_blob(
                    ledger, spec.task, blob, chunks, progress=lambda done, total: told.append((done, total))
                )
                again = cable.carried_bytes - first
                assert told == [(done, CHUNKS) for done in range(CHUNKS - missing + 1, CHUNKS + 1)]
                assert again <= missing * CHUNK_BYTES + OVERHEAD_BYTES
                assert all(await ledger.read_model_upload(spec.task, blob))
                await upload_blob(ledger, spec.task, blob, chunks)
                assert cable.carried_bytes - first - again < OVERHEAD_BYTES
        finally:
            await cable.close()
        assert await fetch_blob(ClientOfNetwork(network, "alpha"), spec.task, blob) == content
