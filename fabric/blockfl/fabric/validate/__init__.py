"""Validation: what every committing peer decides about a block, as a function of the ledger's state.

The embedded node and the offline auditor use the same code. Reference are real peers: the recorded ledger in
the tests gives the same codes, the same state and the same commit hashes.

    validation = validate_block(block, config, state)
    validation.codes, validation.updates, validation.commit_hash(previous)
"""

from blockfl.fabric.transaction.rwset import Version
from blockfl.fabric.validate.block import BlockValidation, follow_block, validate_block, validate_transaction
from blockfl.fabric.validate.reads import summarise_reads
from blockfl.fabric.validate.signatures import SignatureCache
from blockfl.fabric.validate.state import (
    CONFIG_KEY,
    CONFIG_NAMESPACE,
    HashedUpdate,
    HashedValue,
    PublicUpdate,
    StateUpdates,
    StateValue,
    StateView,
)

__all__ = [
    "CONFIG_KEY",
    "CONFIG_NAMESPACE",
    "BlockValidation",
    "HashedUpdate",
    "HashedValue",
    "PublicUpdate",
    "SignatureCache",
    "StateUpdates",
    "StateValue",
    "StateView",
    "Version",
    "follow_block",
    "summarise_reads",
    "validate_block",
    "validate_transaction",
]
