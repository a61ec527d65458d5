"""What several modules of unit tests begin with."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from blockfl.fabric.embedded.ordering.ledger import ChannelLedger
from support.agent_stage import Stage, make_stage
from support.embedded_ledger import define, opened


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    """A task of two rounds, with an agent for each institution."""
    return await make_stage(tmp_path)


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[ChannelLedger]:
    """The embedded node's ledger, with a contract that has private data."""
    with opened(tmp_path / "ledger") as ledger:
        await define(ledger)
        yield ledger
