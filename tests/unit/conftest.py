"""What several modules of unit tests begin with."""

from pathlib import Path

import pytest

from support.agent_stage import Stage, make_stage


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    """A task of two rounds, with an agent for each institution."""
    return await make_stage(tmp_path)
