"""Chaincode events, places in the ledger, and the checkpoints that outlive a process.

Streams of events and blocks are `streams`.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import grpc
from fabric_protos.gateway import gateway_pb2
from google.protobuf.message import DecodeError

from blockfl.fabric.client.status import malformed_answer
from blockfl.fabric.errors import ConfigError, GatewayError


@dataclass(frozen=True, kw_only=True)
class ChaincodeEvent:
    """An event of a valid transaction; a transaction has at most one per chaincode."""

    chaincode: str
    name: str
    payload: bytes
    transaction_id: str
    block_number: int

    @property
    def position(self) -> Position:
        """The place right after it, for a checkpoint that is stored by hand."""
        return Position(block_number=self.block_number, transaction_id=self.transaction_id)


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place in the ledger: after a transaction of a block, or ("" as transaction) at the block's beginning."""

    block_number: int
    transaction_id: str = ""


class Checkpoint(Protocol):
    """Remembers how far a reader of events has come."""

    def load(self) -> Position | None:
        """Return the position recorded last, None if there is none."""
        ...

    def store(self, position: Position) -> None:
        """Record a position."""
        ...


class MemoryCheckpoint:
    """A checkpoint for as long as the process runs."""

    def __init__(self) -> None:
        self._position: Position | None = None

    def load(self) -> Position | None:
        """Return the position recorded last."""
        return self._position

    def store(self, position: Position) -> None:
        """Record a position."""
        self._position = position


class FileCheckpoint:
    """A checkpoint in a file: replaced as a whole and on the disk before `store` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Position | None:
        """Return the position recorded last, None if the file does not exist.

        Raises:
            ConfigError: the file holds something else.
        """
        try:
            match json.loads(self._path.read_bytes()):
                case {"block_number": int(number), "transaction_id": str(transaction_id)} if number >= 0:
                    return Position(block_number=number, transaction_id=transaction_id)
                case _:
                    raise ValueError("no position")
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise ConfigError(
                f"expected a checkpoint in {self._path}, got something else: delete it to read the events from "
                "the beginning"
            ) from error

    def store(self, position: Position) -> None:
        """Record a position durably."""
        content = {"block_number": position.block_number, "transaction_id": position.transaction_id}
        replacement = self._path.with_name(self._path.name + ".new")
        with replacement.open("w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        replacement.replace(self._path)
        directory = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def decode_events(response: bytes) -> list[ChaincodeEvent]:
    """Read a gateway.ChaincodeEventsResponse.

    Raises:
        GatewayError: it does not parse, and asking again would not help.
    """
    try:
        message = gateway_pb2.ChaincodeEventsResponse.FromString(response)
    except DecodeError as error:
        service = "the Gateway service of a Fabric peer"
        raise malformed_answer(GatewayError, "cannot read events", service, grpc.StatusCode.DATA_LOSS) from error
    return [
        ChaincodeEvent(
            chaincode=event.chaincode_id,
            name=event.event_name,
            payload=event.payload,
            transaction_id=event.tx_id,
            block_number=message.block_number,
        )
        for event in message.events
    ]
