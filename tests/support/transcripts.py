"""The transcripts in ``tests/transcripts``: ``make docs`` writes them anew."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from support.rounds import STORIES, tell

DIRECTORY: Final = Path(__file__).parents[1] / "transcripts"


def read_transcript(name: str) -> str:
    """Return what is written of a story."""
    path = DIRECTORY / f"{name}.txt"
    return path.read_text() if path.exists() else ""


def write_transcripts() -> None:
    """Tell every story, and write it down."""
    DIRECTORY.mkdir(exist_ok=True)
    for name in STORIES:
        (DIRECTORY / f"{name}.txt").write_text(asyncio.run(tell(name)).transcript())
