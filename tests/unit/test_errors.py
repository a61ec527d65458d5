from __future__ import annotations

import inspect

import grpc

from blockfl.fabric import errors
from blockfl.fabric.errors import CommitError, EndorseError, ErrorDetail, FabricError


def test_every_error_of_the_room_has_one_root() -> None:
    classes = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, Exception)]
    assert len(classes) > 10
    assert all(issubclass(one, FabricError) for one in classes)


def test_a_gateway_error_says_what_each_node_answered() -> None:
    details = [
        ErrorDetail(address="localhost:7051", msp_id="alpha", message="BFL104 round 7 is closed"),
        ErrorDetail(address="localhost:8051", msp_id="beta", message="connection refused"),
    ]
    error = EndorseError("failed to endorse", status=grpc.StatusCode.ABORTED, details=details, transaction_id="ab12")
    assert str(error) == (
        "failed to endorse; alpha at localhost:7051: BFL104 round 7 is closed; "
        "beta at localhost:8051: connection refused"
    )
    assert error.details == tuple(details)
    assert (error.status, error.transaction_id) == (grpc.StatusCode.ABORTED, "ab12")


def test_a_commit_error_names_transaction_block_and_code() -> None:
    error = CommitError(transaction_id="ab12", code=11, code_name="MVCC_READ_CONFLICT", block_number=7)
    assert all(part in str(error) for part in ("ab12", "block 7", "MVCC_READ_CONFLICT", "11"))
    assert (error.code, error.block_number) == (11, 7)
