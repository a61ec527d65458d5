"""Whatever bytes arrive at the embedded node, its decoders answer with their own errors."""

from __future__ import annotations

import asyncio
import io
import tarfile
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from fabric_protos.peer import chaincode_shim_pb2
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.client.lifecycle import package_contract
from blockfl.fabric.embedded.endorsing.contract_stream import _scan_message
from blockfl.fabric.embedded.endorsing.operations import Operations
from blockfl.fabric.embedded.endorsing.package import Package
from blockfl.fabric.embedded.endorsing.proposal import SignedProposal
from blockfl.fabric.embedded.endorsing.simulator import SimulationError, Simulator
from blockfl.fabric.embedded.services.gateway_service import _read_proposal
from blockfl.fabric.embedded.services.rpc import RpcError
from blockfl.fabric.errors import BlockError, NodeError
from blockfl.fabric.transaction.envelope import build_proposal
from support.organisation import make_organisation
from support.recorded_state import RecordedState

KINDS = chaincode_shim_pb2.ChaincodeMessage.Type.values()


@cache
def valid_proposal() -> bytes:
    signer = make_organisation("alpha").signer("client")
    proposal = build_proposal("fed", "app", [b"Put", b"k", b"v"], signer, {"secret": b"x" * 40})
    return bytes(proposal.signed_proposal.SerializeToString())


@cache
def state() -> RecordedState:
    return RecordedState()


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The content with some bytes replaced, or cut short."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.integers(0, len(changed)))]) if draw(st.booleans()) else bytes(changed)


def parse(data: bytes) -> None:
    try:
        proposal = SignedProposal.parse(data)
        proposal.check_form()
    except BlockError:
        return
    assert len(proposal.proposal_hash) == 32


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_no_proposal_or_a_whole_one(data: bytes) -> None:
    parse(data)


@given(st.data())
def test_a_damaged_proposal_is_refused_or_a_whole_one(data: st.DataObject) -> None:
    parse(data.draw(damaged(valid_proposal())))


@given(st.binary(max_size=300))
def test_arbitrary_bytes_as_a_request_get_a_status(data: bytes) -> None:
    with suppress(RpcError):
        _read_proposal(data)


@given(st.sampled_from(KINDS), st.binary(max_size=200))
def test_arbitrary_operations_of_a_contract_are_served_or_refused(kind: int, payload: bytes) -> None:
    async def invoke(name: str, contract_input: Any) -> bytes:
        return b""

    simulator = Simulator(
        state(),
        organisation="HospitalAMSP",
        channel="fed",
        organisations=("HospitalAMSP",),
        is_member=lambda policy: True,
    )
    operations = Operations(simulator, "app", invoke)
    with suppress(SimulationError):
        asyncio.run(operations.serve(kind, memoryview(payload)))
    assert isinstance(simulator.result().public, bytes)


@given(st.binary(max_size=300))
def test_arbitrary_messages_of_a_contract_are_scanned_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        _scan_message(data)


@given(st.data())
def test_a_damaged_package_is_refused_or_a_whole_one(data: st.DataObject) -> None:
    archive = data.draw(damaged(package_contract("app_1.0")))
    with suppress(NodeError):
        package = Package.parse(archive)
        assert package.package_id.startswith(package.label)


def test_a_package_whose_files_are_too_large_is_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        entry = tarfile.TarInfo("metadata.json")
        entry.size = 8 << 20
        archive.addfile(entry, io.BytesIO(bytes(8 << 20)))
    with pytest.raises(NodeError, match="larger than"):
        Package.parse(buffer.getvalue())
