"""A block that is taken apart once for all that look at it: verification, validation, and the auditor's lists."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from blockfl.fabric.channel.block import Metadata, decode_metadata
from blockfl.fabric.transaction.reading import Reading


class BlockReading:
    """A block, its transactions and its metadata; nothing is judged.

    Attributes:
        block: the `common.Block`.
    """

    def __init__(self, block: Any) -> None:
        self.block = block

    @classmethod
    def of(cls, block: Any) -> BlockReading:
        """Return the reading of a block, a new one for a `common.Block`."""
        return block if isinstance(block, BlockReading) else cls(block)

    @cached_property
    def transactions(self) -> tuple[Reading, ...]:
        """Its transactions."""
        return tuple([Reading(one) for one in self.block.data.data])

    @cached_property
    def metadata(self) -> Metadata:
        """Its metadata.

        Raises:
            BlockError: see `decode_metadata`.
        """
        return decode_metadata(self.block)

    @cached_property
    def size_bytes(self) -> int:
        """Of the encoded block."""
        return int(self.block.ByteSize())
