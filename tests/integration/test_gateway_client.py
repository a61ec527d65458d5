"""The Gateway client against a peer that fails on demand: stages, retries, outcomes, error details."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from fabric_protos.common import common_pb2
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.client.gateway import Gateway, Timeouts
from blockfl.fabric.errors import (
    CommitError,
    CommitStatusError,
    EndorseError,
    ErrorDetail,
    EvaluateError,
    FabricError,
    GatewayError,
    IdentityError,
    SubmitError,
)
from blockfl.fabric.identity.signing import create_private_key, private_key_pem
from support.organisation import make_organisation
from support.scripted_peer import Fault, LedgerBlock, ScriptedPeer, scripted_peer

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.fixture
async def peer() -> AsyncIterator[ScriptedPeer]:
    async with scripted_peer() as one:
        yield one


def connect(peer: ScriptedPeer, **timeouts: float) -> Gateway:
    return Gateway(peer.endpoint, peer.organisation.signer("agent"), "fed", timeouts=Timeouts(**timeouts))


async def test_evaluate_passes_arguments_and_transient_data_and_returns_the_result(peer: ScriptedPeer) -> None:
    chunk = bytes(range(256)) * 16_384
    async with connect(peer) as gateway:
        result = await gateway.evaluate("app", "Get", "key", b"\xff", transient={"chunk": chunk})
    assert result == b"Get|key|\xff|" + chunk
    assert peer.calls == ["Evaluate"]


async def test_a_contract_of_several_parts_is_called_by_part_and_function(peer: ScriptedPeer) -> None:
    async with connect(peer) as gateway:
        assert await gateway.evaluate("app", "assets:Get", "key") == b"assets:Get|key"
    assert (peer.proposals[0].chaincode, peer.proposals[0].args) == ("app", (b"assets:Get", b"key"))


async def test_requests_for_blocks_are_bound_to_the_clients_tls_certificate(peer: ScriptedPeer) -> None:
    key = create_private_key()
    certificate = peer.organisation.tls.issue(key.public_key(), common_name="client", unit=None, tls=True)
    endpoint = replace(peer.endpoint, client_certificate=certificate, client_key=private_key_pem(key))
    request = Gateway(endpoint, peer.organisation.signer("agent"), "fed").new_blocks()
    header = common_pb2.Payload.FromString(request.message).header.channel_header
    der = x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)
    assert common_pb2.ChannelHeader.FromString(header).tls_cert_hash == hashlib.sha256(der).digest()


async def test_organisations_are_passed_to_the_gateway(peer: ScriptedPeer) -> None:
    async with connect(peer) as gateway:
        await gateway.evaluate("app", "Get", organisations=("beta",))
        await gateway.submit("app", "Put", organisations=("alpha", "gamma"))
    assert peer.endorsers_asked == [("beta",), ("alpha", "gamma")]


async def test_submit_endorses_sends_and_waits_for_the_commit(peer: ScriptedPeer) -> None:
    peer.event = ("Stored", b"key")
    async with connect(peer) as gateway:
        committed = await gateway.submit("app", "Put", "key", b"value", transient={"secret": b"private"})
    assert peer.calls == ["Endorse", "Submit", "CommitStatus"]
    assert committed.payload == b"result of Put"
    assert (committed.transaction_id, committed.block_number) == (peer.blocks[1].tx_id, 1)
    assert committed.event is not None
    assert (committed.event.name, committed.event.payload, committed.event.block_number) == ("Stored", b"key", 1)
    assert peer.proposals[0].transient == {"secret": b"private"}
    assert b"private" not in peer.envelopes[0]


async def test_what_each_endorser_answered_is_in_the_error(peer: ScriptedPeer) -> None:
    details = (("a:1", "alpha", "chaincode response 500, BFL104 round 7 is closed"), ("b:1", "beta", "no"))
    peer.fail("Endorse", Fault(code=grpc.StatusCode.ABORTED, message="failed to endorse", details=details))
    async with connect(peer) as gateway:
        with pytest.raises(EndorseError, match="BFL104 round 7 is closed") as caught:
            await gateway.submit("app", "Put")
    assert caught.value.status == grpc.StatusCode.ABORTED
    assert caught.value.details == tuple(ErrorDetail(address=a, msp_id=m, message=t) for a, m, t in details)
    assert caught.value.transaction_id
    assert "cannot endorse Put of app: failed to endorse (ABORTED)" in str(caught.value)
    assert peer.calls == ["Endorse"]


async def test_an_evaluation_that_is_refused_says_why(peer: ScriptedPeer) -> None:
    details = (("a:1", "alpha", "chaincode response 500, BFL301 no such task"),)
    peer.fail("Evaluate", Fault(code=grpc.StatusCode.UNKNOWN, details=details))
    async with connect(peer) as gateway:
        with pytest.raises(EvaluateError, match="BFL301 no such task"):
            await gateway.evaluate("app", "Get")


async def test_a_gateway_that_answers_unavailable_is_not_asked_again(peer: ScriptedPeer) -> None:
    # Its answer means that endorsers cannot be reached: the caller may name others.
    peer.fail("Endorse", Fault(code=UNAVAILABLE, message="no peers of beta"))
    async with connect(peer) as gateway:
        with pytest.raises(EndorseError, match="no peers of beta"):
            await gateway.submit("app", "Put", organisations=("beta",))
    assert peer.calls == ["Endorse"]


async def test_a_peer_that_is_down_is_tried_again_and_then_reported(peer: ScriptedPeer) -> None:
    await peer.stop()
    async with connect(peer) as gateway:
        with pytest.raises(EvaluateError, match="cannot evaluate Get of app") as caught:
            await gateway.evaluate("app", "Get", retries=1)
        assert caught.value.status == UNAVAILABLE
        await peer.start()
        assert await gateway.evaluate("app", "Get", retries=20) == b"Get"


async def test_a_peer_that_does_not_know_the_others_yet_is_asked_again(peer: ScriptedPeer) -> None:
    message = "no combination of peers can be derived which satisfy the endorsement policy"
    peer.fail("Endorse", *[Fault(code=grpc.StatusCode.FAILED_PRECONDITION, message=message)] * 2)
    async with connect(peer) as gateway:
        await gateway.submit("app", "Put")
        peer.fail("Endorse", *[Fault(code=grpc.StatusCode.FAILED_PRECONDITION, message=message)] * 2)
        with pytest.raises(EndorseError, match=message):
            await gateway.submit("app", "Put", retries=1)
    assert peer.calls.count("Endorse") == 5


async def test_a_transaction_that_was_ordered_although_sending_failed_is_found_and_not_sent_again(
    peer: ScriptedPeer,
) -> None:
    peer.fail("Submit", Fault(code=UNAVAILABLE, after=True))
    async with connect(peer) as gateway:
        committed = await gateway.submit("app", "Put")
    assert committed.block_number == 1
    assert peer.calls == ["Endorse", "Submit", "CommitStatus"]


async def test_a_transaction_that_got_lost_is_sent_again_with_the_same_bytes(peer: ScriptedPeer) -> None:
    peer.fail("Submit", Fault(code=UNAVAILABLE))
    async with connect(peer, commit_s=0.3) as gateway:
        committed = await gateway.submit("app", "Put")
    assert committed.block_number == 1
    assert peer.calls == ["Endorse", "Submit", "CommitStatus", "Submit", "CommitStatus"]
    assert len(peer.envelopes) == 1


async def test_a_repeated_transaction_keeps_the_fate_of_its_first_copy(peer: ScriptedPeer) -> None:
    peer.fail("CommitStatus", Fault(code=DEADLINE))
    async with connect(peer) as gateway:
        committed = await gateway.submit("app", "Put")
    assert [block.code for block in peer.blocks[1:]] == [0, int(transaction_pb2.DUPLICATE_TXID)]
    assert peer.envelopes[0] == peer.envelopes[1]
    assert committed.block_number == 1


async def test_a_status_of_duplicate_is_asked_again_for_the_first_copy(peer: ScriptedPeer) -> None:
    async with connect(peer) as gateway:
        endorsed = await gateway.endorse(gateway.propose("app", "Put"))
        await gateway.send(endorsed)
        first = peer.blocks.pop()
        # The peer hears of the repetition first, and knows the original when it is asked again.
        duplicate = LedgerBlock(number=9, tx_id=first.tx_id, code=int(transaction_pb2.DUPLICATE_TXID))
        peer.blocks.append(duplicate)

        async def replace(*_: Any) -> None:
            if peer.calls.count("CommitStatus") == 2:
                peer.blocks[-2:] = [first]

        begin = peer.begin

        async def watched(method: str, context: Any) -> Fault | None:
            fault = await begin(method, context)
            await replace()
            return fault

        peer.begin = watched  # type: ignore[method-assign]
        committed = await gateway.commit(endorsed)
    assert committed.block_number == first.number


async def test_an_outcome_that_stays_unknown_is_an_error_of_its_own(peer: ScriptedPeer) -> None:
    peer.fail("Submit", *[Fault(code=UNAVAILABLE, message="no orderer")] * 2)
    async with connect(peer, commit_s=0.1) as gateway:
        with pytest.raises(CommitStatusError, match=r"is unknown, submitting the same one again is safe.*no orderer"):
            await gateway.submit("app", "Put", retries=1)
    assert peer.calls == ["Endorse", "Submit", "CommitStatus", "Submit"]


def held(said: str) -> Fault:
    """What a gateway answers whose ordering nodes got the transaction with an earlier attempt."""
    info = f"received unsuccessful response from orderer: status=SERVICE_UNAVAILABLE, info=failed to submit: {said}"
    nodes = (("orderer.alpha:7050", "alpha", info), ("orderer.beta:7050", "beta", "connection refused"))
    return Fault(code=UNAVAILABLE, message="insufficient number of orderers", details=nodes)


def refused_again() -> Fault:
    """What the embedded node answers to a transaction that changes keys' policies and is on the ledger already."""
    info = "the transaction was not ordered: request already processed: ab12 is on the ledger, ask for its status"
    text = f"received unsuccessful response from orderer: status=BAD_REQUEST, info={info}"
    return Fault(code=grpc.StatusCode.ABORTED, message=text)


@pytest.mark.parametrize(
    "fault",
    [held("request already exists"), held("request already processed"), refused_again()],
    ids=["in the pool", "in a block", "refused"],
)
async def test_what_ordering_nodes_have_already_is_waited_for(peer: ScriptedPeer, fault: Fault) -> None:
    peer.fail("Submit", fault)
    begin = peer.begin
    async with connect(peer) as gateway:
        endorsed = await gateway.endorse(gateway.propose("app", "Put"))

        async def late(method: str, context: Any) -> Fault | None:
            if method == "CommitStatus":
                await peer.append(LedgerBlock(number=1, tx_id=endorsed.transaction_id, code=0))
            return await begin(method, context)

        peer.begin = late  # type: ignore[method-assign]
        committed = await gateway.commit(endorsed, retries=0)
    assert committed.block_number == 1
    assert peer.calls == ["Endorse", "Submit", "CommitStatus"]


async def test_what_ordering_nodes_have_and_the_peer_never_hears_of_stays_unknown(peer: ScriptedPeer) -> None:
    peer.fail("Submit", *[held("request already processed")] * 2)
    async with connect(peer, commit_s=0.1) as gateway:
        with pytest.raises(CommitStatusError, match="is unknown, submitting the same one again is safe"):
            await gateway.submit("app", "Put", retries=1)
    assert peer.calls == ["Endorse", "Submit", "CommitStatus", "Submit", "CommitStatus"]


async def test_orderers_that_refuse_are_not_asked_again(peer: ScriptedPeer) -> None:
    peer.fail("Submit", Fault(code=grpc.StatusCode.PERMISSION_DENIED, message="not a writer"))
    async with connect(peer) as gateway:
        with pytest.raises(SubmitError, match="not a writer"):
            await gateway.submit("app", "Put")
    assert peer.calls == ["Endorse", "Submit"]


async def test_an_invalid_transaction_is_an_error_with_its_code(peer: ScriptedPeer) -> None:
    peer.next_code = int(transaction_pb2.MVCC_READ_CONFLICT)
    async with connect(peer) as gateway:
        with pytest.raises(CommitError, match="MVCC_READ_CONFLICT") as caught:
            await gateway.submit("app", "Put")
    assert (caught.value.code_name, caught.value.block_number) == ("MVCC_READ_CONFLICT", 1)


async def test_a_gateway_that_swaps_the_transaction_gets_no_signature(peer: ScriptedPeer) -> None:
    async with connect(peer) as gateway:
        other = await gateway.endorse(gateway.propose("app", "Steal"))

        def swap(answer: Any) -> None:
            answer.prepared_transaction.ParseFromString(other.envelope)

        peer.tamper = swap
        with pytest.raises(EndorseError, match="another transaction than the one proposed"):
            await gateway.submit("app", "Put")
    assert "Submit" not in peer.calls


async def test_an_answer_that_is_no_transaction_is_reported(peer: ScriptedPeer) -> None:
    def spoil(answer: Any) -> None:
        answer.prepared_transaction.payload = b"\xff\xff"

    peer.tamper = spoil
    async with connect(peer) as gateway:
        with pytest.raises(EndorseError, match="does not parse"):
            await gateway.submit("app", "Put")


async def test_a_peer_with_a_certificate_of_another_authority_is_not_trusted(peer: ScriptedPeer) -> None:
    stranger = make_organisation("alpha")
    endpoint = type(peer.endpoint)(address=peer.endpoint.address, tls_roots_pem=stranger.tls.certificate_pem)
    async with Gateway(endpoint, peer.organisation.signer("agent"), "fed") as gateway:
        with pytest.raises(EvaluateError) as caught:
            await gateway.evaluate("app", "Get", retries=0)
    assert caught.value.status == UNAVAILABLE
    assert peer.calls == []


async def test_a_gateway_outside_its_context_is_a_clear_error(peer: ScriptedPeer) -> None:
    gateway = connect(peer)
    with pytest.raises(FabricError, match="inside `async with`"):
        await gateway.evaluate("app", "Get")


@pytest.mark.parametrize("address", ["127.0.0.1", ":7051", "host:", "host:0", "host:70000", "host:http"])
def test_an_address_without_host_and_port_is_refused(address: str, peer: ScriptedPeer) -> None:
    with pytest.raises(IdentityError, match="expected the address of a node as host:port"):
        type(peer.endpoint)(address=address, tls_roots_pem=peer.endpoint.tls_roots_pem)


def test_timeouts_are_positive() -> None:
    with pytest.raises(ValueError, match="expected commit_s to be more than 0 seconds, got 0"):
        Timeouts(commit_s=0)


async def test_details_that_do_not_parse_leave_the_error_itself(peer: ScriptedPeer) -> None:
    async def abort(fault: Fault, context: Any) -> None:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\xff\x01"),))
        await context.abort(fault.code, fault.message)

    peer.abort = abort  # type: ignore[method-assign]
    peer.fail("Evaluate", Fault(code=grpc.StatusCode.ABORTED, message="broken"))
    async with connect(peer) as gateway:
        with pytest.raises(EvaluateError, match="broken") as caught:
            await gateway.evaluate("app", "Get")
    assert caught.value.details == ()


async def test_the_height_is_read_and_refused_to_strangers(peer: ScriptedPeer) -> None:
    async with connect(peer) as gateway:
        assert await gateway.height() == 1
        await peer.emit("one")
        assert await gateway.height() == 2
    stranger = make_organisation("stranger").signer("agent")
    async with Gateway(peer.endpoint, stranger, "fed") as gateway:
        with pytest.raises(GatewayError, match="FORBIDDEN") as caught:
            await gateway.height()
    assert caught.value.status == grpc.StatusCode.PERMISSION_DENIED
