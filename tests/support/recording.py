"""The recorded ledger of a real Fabric network (tests/recordings/bft), read once."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

from fabric_protos.common import common_pb2

DIRECTORY = Path(__file__).parents[1] / "recordings" / "bft"


@cache
def recorded_block_bytes() -> tuple[bytes, ...]:
    """Every block as the peer returned it."""
    encoded = gzip.decompress((DIRECTORY / "blocks.bin.gz").read_bytes())
    blocks, position = [], 0
    while position < len(encoded):
        end = position + 4 + int.from_bytes(encoded[position : position + 4], "big")
        blocks.append(encoded[position + 4 : end])
        position = end
    return tuple(blocks)


@cache
def recorded_blocks() -> tuple[Any, ...]:
    """Every block, parsed (common.Block): copy one before changing it."""
    return tuple(map(common_pb2.Block.FromString, recorded_block_bytes()))


@cache
def recorded_json(name: str) -> Any:
    """One of the recording's JSON files, e.g. "expected"."""
    return json.loads((DIRECTORY / f"{name}.json").read_text())
