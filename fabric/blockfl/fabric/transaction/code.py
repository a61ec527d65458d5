"""Validation codes: the byte that a peer keeps of each transaction of a block."""

from __future__ import annotations

from fabric_protos.peer import transaction_pb2


def code_name(code: int) -> str:
    """Return the name of a validation code, such as MVCC_READ_CONFLICT."""
    try:
        return str(transaction_pb2.TxValidationCode.Name(code))
    except ValueError:
        return f"code {code}"
