"""One network for all attacks on a ledger."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from attacks.arena import Arena, open_arena


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def arena(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> AsyncIterator[Arena]:
    async with open_arena(tmp_path_factory.mktemp("arena"), ledger_kind) as opened:
        yield opened
