"""The errors of this package, one tree:

FabricError
├── IdentityError        a certificate, key, signature or MSP is not acceptable
├── PolicyError          signatures do not satisfy a policy, or the policy itself is malformed
├── ConfigError          a channel configuration is malformed, or a specification of one is refused
├── BlockError           a block or transaction is malformed or does not verify
├── NodeError            the embedded node cannot serve (damaged file, full disk, wrong settings)
├── StorageError         a temporary file cannot be used (full disk)
├── ShimError            a contract service cannot be served or reached
├── CommitError          the transaction is on the ledger, but invalid
└── GatewayError         a call to a gateway failed
    ├── EvaluateError
    ├── EndorseError     nothing was ordered
    ├── SubmitError      the orderers did not acknowledge
    └── CommitStatusError  the outcome is unknown: submitting the same transaction again is safe
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc


class FabricError(Exception):
    """Root of all errors of this package."""


class IdentityError(FabricError):
    """A certificate, key, signature or membership service provider is not acceptable."""


class PolicyError(FabricError):
    """Signatures do not satisfy a policy, or the policy is malformed or does not exist."""


class ConfigError(FabricError):
    """A channel configuration is malformed, or the description of one is refused."""


class BlockError(FabricError):
    """A block or transaction is malformed or does not verify."""


class NodeError(FabricError):
    """The embedded node cannot serve."""


class StorageError(FabricError):
    """A temporary file cannot be used: the disk is full or refuses."""


class ShimError(FabricError):
    """A contract service cannot be served or reached."""


class CommitError(FabricError):
    """The transaction is on the ledger, but it is invalid and changed nothing."""

    def __init__(self, *, transaction_id: str, code: int, code_name: str, block_number: int) -> None:
        super().__init__(
            f"transaction {transaction_id} was committed as invalid in block {block_number}: "
            f"expected VALID, got {code_name} ({code})"
        )
        self.transaction_id = transaction_id
        self.code = code
        self.code_name = code_name
        self.block_number = block_number


@dataclass(frozen=True, kw_only=True)
class ErrorDetail:
    """What one node answered: its address, its organisation's MSP id, its message."""

    address: str
    msp_id: str
    message: str


class GatewayError(FabricError):
    """A call to a gateway failed; the text holds what each node answered."""

    def __init__(
        self,
        message: str,
        *,
        status: grpc.StatusCode,
        details: Sequence[ErrorDetail] = (),
        transaction_id: str = "",
    ) -> None:
        answers = "".join(f"; {f'{d.msp_id} at ' if d.msp_id else ''}{d.address}: {d.message}" for d in details)
        super().__init__(f"{message}{answers}")
        self.status = status
        self.details = tuple(details)
        self.transaction_id = transaction_id


class EvaluateError(GatewayError):
    """The transaction could not be evaluated."""


class EndorseError(GatewayError):
    """The transaction was not endorsed; nothing was ordered."""


class SubmitError(GatewayError):
    """The orderers did not acknowledge the transaction."""


class CommitStatusError(GatewayError):
    """The outcome of a submitted transaction is unknown; submitting the same transaction again is safe."""
