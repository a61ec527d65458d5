"""The recorded ledger, verified and replayed once: every block with what held before it."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

from blockfl.fabric.channel.block import decode_block, header_hash, verify_block, verify_genesis
from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.validate import BlockValidation, SignatureCache, validate_block
from blockfl.fabric.validate.memory_state import MemoryState
from support.recording import recorded_block_bytes

SIGNATURES = SignatureCache()


@dataclass(frozen=True, kw_only=True)
class Step:
    """A block, what held before it, and what validating it gave."""

    encoded: bytes
    number: int
    config: ChannelConfig
    state: MemoryState
    previous_hash: bytes
    previous_commit_hash: bytes
    validation: BlockValidation

    def verify(self, encoded: bytes) -> None:
        """Do all that an auditor does with a block at this place; it raises on any doubt."""
        block = decode_block(encoded)
        if self.number == 0:
            verify_genesis(block)
        else:
            verify_block(block, self.config, previous_hash=self.previous_hash, number=self.number)
        validation = validate_block(block, self.config, self.state, signatures=SIGNATURES)
        validation.verify_recorded(block, self.previous_commit_hash)


@dataclass(frozen=True, kw_only=True)
class Replay:
    """All steps, and what is left at the end."""

    steps: tuple[Step, ...]
    state: MemoryState
    last_hash: bytes
    last_commit_hash: bytes


@cache
def replayed() -> Replay:
    """Replay the recording from its first block; nothing is verified yet."""
    blocks: list[Any] = [decode_block(encoded) for encoded in recorded_block_bytes()]
    state, config = MemoryState(), ChannelConfig.from_block(blocks[0])
    last_hash, last_commit_hash = b"", b""
    steps = []
    for number, (encoded, block) in enumerate(zip(recorded_block_bytes(), blocks, strict=True)):
        validation = validate_block(block, config, state, signatures=SIGNATURES)
        steps.append(
            Step(
                encoded=encoded,
                number=number,
                config=config,
                state=deepcopy(state),
                previous_hash=last_hash,
                previous_commit_hash=last_commit_hash,
                validation=validation,
            )
        )
        state.apply(validation.updates, validation.tx_ids)
        config = validation.config or config
        last_hash, last_commit_hash = header_hash(block.header), validation.commit_hash(last_commit_hash)
    return Replay(steps=tuple(steps), state=state, last_hash=last_hash, last_commit_hash=last_commit_hash)
