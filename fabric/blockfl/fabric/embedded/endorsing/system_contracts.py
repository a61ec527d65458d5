"""The little of the system chaincodes `qscc` and `cscc` that clients use: queries about the ledger.

Everything else is refused by name: the embedded node has one channel, which is there from its first start.
"""

from __future__ import annotations

import re
from typing import Any, Final

from fabric_protos.common import common_pb2, ledger_pb2
from fabric_protos.peer import proposal_response_pb2, query_pb2, transaction_pb2

from blockfl.fabric.channel.block import header_hash
from blockfl.fabric.embedded.endorsing.simulator import SimulationError
from blockfl.fabric.embedded.ordering.ledger import ChannelLedger

SYSTEM_CONTRACTS: Final = frozenset({"qscc", "cscc", "lscc"})
_NUMBER: Final = re.compile(r"[0-9]{1,20}")


class SystemContracts:
    """Answers queries about one ledger."""

    def __init__(self, ledger: ChannelLedger) -> None:
        self._ledger = ledger

    def invoke(self, name: str, args: tuple[bytes, ...]) -> Any:
        """Runs one query.

        Args:
            name: The system chaincode.
            args: Function, channel and further arguments.

        Returns:
            protos.Response.

        Raises:
            SimulationError: The embedded node has no such function, or its arguments are wrong.
        """
        if not args:
            raise SimulationError(f"expected the name of a function of {name}, got no arguments")
        function = f"{name}/{args[0].decode(errors='replace')}"
        if function == "cscc/GetChannels":
            channels = query_pb2.ChannelQueryResponse(
                channels=[query_pb2.ChannelInfo(channel_id=self._ledger.channel_id)]
            )
            return _success(channels.SerializeToString())
        if len(args) < 2 or args[1].decode(errors="replace") != self._ledger.channel_id:
            raise SimulationError(f"expected the channel {self._ledger.channel_id} as first argument of {function}")
        return _success(self._query(function, args[2:]))

    def _query(self, function: str, args: tuple[bytes, ...]) -> bytes:
        if function == "qscc/GetChainInfo":
            return self._chain_info()
        if function == "cscc/GetConfigBlock":
            return self._ledger.block(self._last_config_block())
        if function == "cscc/GetChannelConfig":
            return bytes(self._ledger.config.config.SerializeToString(deterministic=True))
        if function == "qscc/GetBlockByNumber":
            number = _one(function, args)
            if not _NUMBER.fullmatch(number) or int(number) >= self._ledger.height:
                raise SimulationError(f"failed to get block number {number}: expected 0 to {self._ledger.height - 1}")
            return self._ledger.block(int(number))
        if function in ("qscc/GetTransactionByID", "qscc/GetBlockByTxID"):
            tx_id = _one(function, args)
            status = self._ledger.transaction(tx_id)
            if status is None:
                raise SimulationError(f"failed to get transaction with id {tx_id}: no such transaction ID [{tx_id}]")
            block = self._ledger.block(status.block_number)
            if function == "qscc/GetBlockByTxID":
                return block
            envelope = common_pb2.Block.FromString(block).data.data[status.index]
            found = transaction_pb2.ProcessedTransaction(
                transactionEnvelope=common_pb2.Envelope.FromString(envelope), validationCode=status.code
            )
            return bytes(found.SerializeToString())
        raise SimulationError(f"the embedded node does not have {function}")

    def _chain_info(self) -> bytes:
        height = self._ledger.height
        header = common_pb2.Block.FromString(self._ledger.block(height - 1)).header
        info = ledger_pb2.BlockchainInfo(
            height=height, currentBlockHash=header_hash(header), previousBlockHash=header.previous_hash
        )
        return bytes(info.SerializeToString())

    def _last_config_block(self) -> int:
        block = common_pb2.Block.FromString(self._ledger.block(self._ledger.height - 1))
        metadata = common_pb2.Metadata.FromString(block.metadata.metadata[common_pb2.SIGNATURES])
        return int(common_pb2.OrdererBlockMetadata.FromString(metadata.value).last_config.index)


def _success(payload: bytes) -> Any:
    return proposal_response_pb2.Response(status=200, payload=payload)


def _one(function: str, args: tuple[bytes, ...]) -> str:
    if len(args) != 1:
        raise SimulationError(f"expected one argument after the channel for {function}, got {len(args)}")
    return args[0].decode(errors="replace")
