"""What the official Gateway clients promise in the scenarios that they share, in our words and with our client.

Each test names the feature that it is a scenario of; `docs/fabric/features.md` links to them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from blockfl.fabric.client.gateway import Gateway, Timeouts
from blockfl.fabric.errors import CommitError, EndorseError, EvaluateError, GatewayError, IdentityError
from blockfl.fabric.identity.pkcs11 import Pkcs11Signer
from blockfl.fabric.identity.signing import Signer
from support.consortium import CHANNEL, AnyConsortium
from support.hardware import software_token
from support.local_consortium import LocalConsortium
from support.scenario_network import ORGANISATIONS, scenario_network
from support.stories import settle

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOON_S = 30


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> AsyncIterator[AnyConsortium]:
    async with scenario_network(ledger_kind, tmp_path_factory.mktemp("network")) as network:
        yield network


@pytest_asyncio.fixture(loop_scope="module")
async def network(running: AnyConsortium) -> AnyConsortium:
    """The network, when every peer has what the test before has left."""
    await settle(running, ORGANISATIONS)
    return running


@pytest_asyncio.fixture(loop_scope="module")
async def gateway(network: AnyConsortium) -> AsyncIterator[Gateway]:
    async with network.gateway("alpha") as one:
        yield one


# Transaction invocation


async def test_transactions_evaluate_with_a_result(gateway: Gateway) -> None:
    assert await gateway.evaluate("basic", "Echo", "conga") == b"conga"


async def test_transactions_submit_with_a_result(gateway: Gateway) -> None:
    assert (await gateway.submit("basic", "Echo", "conga")).payload == b"conga"


async def test_transactions_update_the_ledger(gateway: Gateway) -> None:
    await gateway.submit("basic", "Put", "update", "ledger")
    assert await gateway.evaluate("basic", "Get", "update") == b"ledger"


async def test_transactions_pass_transient_data(gateway: Gateway) -> None:
    data = {"key1": b"value1", "key2": b"value2"}
    answer = await gateway.evaluate("basic", "EchoTransient", transient=data)
    assert json.loads(answer) == {"key1": "value1", "key2": "value2"}


async def test_transactions_evaluated_with_an_error(gateway: Gateway) -> None:
    with pytest.raises(EvaluateError, match="chaincode response 500, nothing doing") as caught:
        await gateway.evaluate("basic", "Fail", "nothing doing")
    assert caught.value.status is grpc.StatusCode.UNKNOWN


async def test_transactions_submitted_with_an_error(network: AnyConsortium, gateway: Gateway) -> None:
    with pytest.raises(EndorseError, match="failed to endorse transaction, see attached details") as caught:
        await gateway.submit("basic", "Fail", "nothing doing")
    assert caught.value.status is grpc.StatusCode.ABORTED
    assert said(network, caught.value) == {"alpha": "chaincode response 500, nothing doing"}


# Specify endorsing organisations, with a key in a file and with one in a token


@pytest_asyncio.fixture(loop_scope="module", params=["file", "token"])
async def keyed(network: AnyConsortium, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Gateway]:
    if request.param == "file":
        async with network.gateway("alpha") as one:
            yield one
        return
    with software_token(tmp_path) as token:
        identity = token.make_identity(network.organisations["alpha"], "operator")
        with Pkcs11Signer.open(identity, library=token.library, token=token.label, pin=token.pin) as signer:
            async with Gateway(network.endpoint("alpha"), signer, CHANNEL) as one:
                yield one


@pytest.mark.parametrize("organisation", ORGANISATIONS)
async def test_endorsement_by_one_organisation(keyed: Gateway, organisation: str) -> None:
    committed = await keyed.submit("private", "Organisation", organisations=(organisation,))
    assert committed.payload == organisation.encode()


async def test_endorsement_by_two_organisations(keyed: Gateway) -> None:
    data = {"alpha": b"value1", "gamma": b"value2"}
    committed = await keyed.submit("private", "CheckTransient", transient=data, organisations=("alpha", "gamma"))
    assert committed.payload == b"success"


@pytest.mark.parametrize("organisation", ["alpha", "beta"])
async def test_endorsement_evaluated_at_one_organisation(keyed: Gateway, organisation: str) -> None:
    answer = await keyed.evaluate("private", "Organisation", organisations=(organisation,))
    assert answer == organisation.encode()


# Off-line signing


@pytest_asyncio.fixture(loop_scope="module")
async def keyless(network: AnyConsortium) -> AsyncIterator[Gateway]:
    async with Gateway(network.endpoint("alpha"), network.signer("alpha").identity, CHANNEL) as one:
        yield one


async def test_offline_signing_is_needed_to_evaluate(keyless: Gateway) -> None:
    with pytest.raises(IdentityError, match="expected a signer for alpha"):
        await keyless.evaluate("basic", "Echo", "conga")


async def test_offline_signing_evaluates(network: AnyConsortium, keyless: Gateway) -> None:
    proposal = keyless.new_proposal("basic", "Echo", "conga")
    assert await sign(network.signer("alpha"), proposal).evaluate() == b"conga"


async def test_offline_signing_is_needed_to_submit(keyless: Gateway) -> None:
    with pytest.raises(IdentityError, match="expected a signer for alpha"):
        await keyless.submit("basic", "Echo", "conga")


async def test_offline_signing_submits(network: AnyConsortium, keyless: Gateway) -> None:
    signer = network.signer("alpha")
    transaction = await sign(signer, keyless.new_proposal("basic", "Echo", "conga")).endorse()
    commit = await sign(signer, transaction).submit()
    status = await sign(signer, commit).read_status()
    assert (status.is_valid, commit.result) == (True, b"conga")


def sign(signer: Signer, request: Any) -> Any:
    return request.signed(signer.sign(request.message))


# Private data collections


async def put_private(network: AnyConsortium, by: str, collection: str, key: str, *endorsers: str) -> None:
    data = {"collection": collection.encode(), "key": key.encode(), "value": f"value of {key}".encode()}
    async with network.gateway(by) as gateway:
        await gateway.submit("private", "PutPrivate", transient=data, organisations=endorsers)
    await settle(network, ORGANISATIONS)


async def get_private(network: AnyConsortium, by: str, collection: str, key: str, at: str) -> bytes:
    async with network.gateway(by) as gateway:
        return await gateway.evaluate("private", "GetPrivate", collection, key, organisations=(at,))


async def test_private_data_is_read_by_its_member(network: AnyConsortium) -> None:
    await put_private(network, "alpha", "alphas", "k101", "alpha")
    assert await get_private(network, "alpha", "alphas", "k101", at="alpha") == b"value of k101"


async def test_private_data_is_not_at_another_organisations_peer(network: AnyConsortium) -> None:
    await put_private(network, "alpha", "alphas", "k102", "alpha")
    with pytest.raises(EvaluateError):
        await get_private(network, "alpha", "alphas", "k102", at="beta")


async def test_private_data_may_be_written_by_who_may_not_read_it(network: AnyConsortium) -> None:
    await put_private(network, "beta", "alphas", "k103", "alpha")
    with pytest.raises(EvaluateError):
        await get_private(network, "beta", "alphas", "k103", at="alpha")


async def test_private_data_of_another_writer_is_read_by_its_member(network: AnyConsortium) -> None:
    await put_private(network, "beta", "alphas", "k104", "alpha")
    assert await get_private(network, "alpha", "alphas", "k104", at="alpha") == b"value of k104"


async def test_private_data_that_members_share_is_not_read_by_others(network: AnyConsortium) -> None:
    await put_private(network, "alpha", "shared", "k106", "alpha")
    with pytest.raises(EvaluateError):
        await get_private(network, "beta", "shared", "k106", at="alpha")


async def test_private_data_that_members_share_is_not_written_by_others(network: AnyConsortium) -> None:
    with pytest.raises(EndorseError):
        await put_private(network, "beta", "shared", "k107", "alpha")


async def test_private_data_is_endorsed_by_the_gateways_own_member(network: AnyConsortium) -> None:
    await put_private(network, "alpha", "shared", "k108")
    assert await get_private(network, "alpha", "shared", "k108", at="alpha") == b"value of k108"


async def test_private_data_is_endorsed_by_whom_the_collections_demand(network: AnyConsortium) -> None:
    await put_private(network, "alpha", "shared,gammas", "k109")
    assert await get_private(network, "alpha", "shared", "k109", at="alpha") == b"value of k109"
    assert await get_private(network, "alpha", "gammas", "k109", at="gamma") == b"value of k109"
    with pytest.raises(EvaluateError):
        await get_private(network, "alpha", "gammas", "k109", at="alpha")


# State-based endorsement


@pytest_asyncio.fixture(loop_scope="module")
async def key(network: AnyConsortium, request: pytest.FixtureRequest) -> str:
    """A key that only alpha may change."""
    name = f"key of {request.node.originalname}"
    await write(network, "Put", name, "at first")
    await write(network, "Protect", name, "alpha")
    return name


async def write(network: AnyConsortium, function: str, *args: str, endorsers: Sequence[str] = ()) -> None:
    async with network.gateway("alpha") as gateway:
        await gateway.submit("private", function, *args, organisations=endorsers)
    await settle(network, ORGANISATIONS)


async def read(network: AnyConsortium, key: str) -> bytes:
    async with network.gateway("alpha") as gateway:
        return await gateway.evaluate("private", "Get", key)


async def test_state_based_endorsement_by_the_keys_organisation(network: AnyConsortium, key: str) -> None:
    await write(network, "Put", key, "changed", endorsers=("alpha",))
    assert await read(network, key) == b"changed"


async def test_state_based_endorsement_by_another_organisation_alone(network: AnyConsortium, key: str) -> None:
    with pytest.raises(CommitError, match="ENDORSEMENT_POLICY_FAILURE"):
        await write(network, "Put", key, "changed", endorsers=("beta",))
    assert await read(network, key) == b"at first"


@pytest.mark.parametrize("organisations", [("alpha", "gamma"), ("beta", "gamma")], ids="-".join)
async def test_state_based_endorsement_is_found_by_the_gateway(
    network: AnyConsortium, key: str, organisations: tuple[str, ...]
) -> None:
    await write(network, "Protect", key, *organisations)
    await write(network, "Put", key, "changed")
    assert await read(network, key) == b"changed"


async def test_state_based_endorsement_by_the_wrong_organisations(network: AnyConsortium, key: str) -> None:
    await write(network, "Protect", key, "alpha", "gamma")
    with pytest.raises(CommitError, match="ENDORSEMENT_POLICY_FAILURE") as caught:
        await write(network, "Put", key, "changed", endorsers=("alpha", "beta"))
    assert (caught.value.code, len(caught.value.transaction_id)) == (10, 64)
    assert await read(network, key) == b"at first"


# Errors


def said(network: AnyConsortium, error: GatewayError) -> dict[str, str]:
    """What each organisation's peer answered; its address is the peer's own."""
    for detail in error.details:
        assert detail.address == network.endpoint(detail.msp_id).address
    return {detail.msp_id: detail.message for detail in error.details}


async def test_errors_of_wrong_arguments(gateway: Gateway) -> None:
    text = "evaluate call to endorser returned error: chaincode response 500, expected 1 argument, got 0"
    with pytest.raises(EvaluateError, match=text) as caught:
        await gateway.evaluate("strict", "Exists")
    assert caught.value.status is grpc.StatusCode.UNKNOWN


async def test_errors_of_an_unknown_chaincode(gateway: Gateway) -> None:
    text = (
        "no combination of peers can be derived which satisfy the endorsement policy: No metadata was found for "
        f"chaincode nonexistent in channel {CHANNEL}"
    )
    with pytest.raises(EndorseError, match=text) as caught:
        await gateway.submit("nonexistent", "Exists", retries=0)
    assert caught.value.status is grpc.StatusCode.FAILED_PRECONDITION


async def test_errors_of_an_unknown_function(network: AnyConsortium, gateway: Gateway) -> None:
    with pytest.raises(EndorseError, match="failed to endorse transaction, see attached details") as caught:
        await gateway.submit("strict", "Nonexistent")
    assert caught.value.status is grpc.StatusCode.ABORTED
    assert said(network, caught.value) == {"alpha": "chaincode response 500, there is no function Nonexistent"}


async def test_errors_of_a_signature_of_another_organisation(network: AnyConsortium, keyless: Gateway) -> None:
    proposal = keyless.new_proposal("strict", "Exists", "123")
    denied = f"error validating proposal: access denied: channel [{CHANNEL}] creator org [alpha]"
    with pytest.raises(EvaluateError) as caught:
        await sign(network.signer("gamma"), proposal).evaluate()
    assert f"evaluate call to endorser returned error: {denied}" in str(caught.value)
    assert caught.value.status is grpc.StatusCode.FAILED_PRECONDITION
    assert said(network, caught.value) == {"alpha": denied}


async def test_errors_of_one_organisation_that_does_not_evaluate(gateway: Gateway) -> None:
    text = "evaluate call to endorser returned error: chaincode response 500, alpha does not endorse this"
    with pytest.raises(EvaluateError, match=text) as caught:
        await gateway.evaluate("strict", "RefuseAt", '["alpha"]')
    assert caught.value.status is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize("refusing", [("gamma",), ("beta", "gamma")], ids="-".join)
async def test_errors_of_organisations_that_do_not_endorse(
    network: AnyConsortium, gateway: Gateway, refusing: tuple[str, ...]
) -> None:
    with pytest.raises(EndorseError, match="failed to collect enough transaction endorsements") as caught:
        await gateway.submit("strict", "RefuseAt", json.dumps(refusing))
    assert caught.value.status is grpc.StatusCode.ABORTED
    assert said(network, caught.value) == {
        name: f"chaincode response 500, {name} does not endorse this" for name in refusing
    }


async def test_errors_of_results_that_differ(network: AnyConsortium, gateway: Gateway) -> None:
    with pytest.raises(EndorseError, match="failed to collect enough transaction endorsements") as caught:
        await gateway.submit("strict", "Organisation")
    assert caught.value.status is grpc.StatusCode.ABORTED
    assert said(network, caught.value) == dict.fromkeys(("beta", "gamma"), "ProposalResponsePayloads do not match")


@pytest.mark.parametrize("stage", ["evaluated", "endorsed"])
async def test_errors_of_a_contract_that_takes_longer_than_the_caller_waits(gateway: Gateway, stage: str) -> None:
    call = (
        gateway.evaluate("strict", "Sleep", "2", timeout_s=0.5)
        if stage == "evaluated"
        else gateway.submit("strict", "Sleep", "2", timeouts=Timeouts(endorse_s=0.5))
    )
    with pytest.raises(EvaluateError if stage == "evaluated" else EndorseError) as caught:
        await call
    assert caught.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not caught.value.details


async def test_errors_of_contract_services_that_end(network: AnyConsortium, gateway: Gateway) -> None:
    try:
        with pytest.raises(EvaluateError, match="failed to evaluate transaction, see attached details") as caught:
            await gateway.evaluate("strict", "Crash", retries=0)
        assert caught.value.status is grpc.StatusCode.ABORTED
        told = said(network, caught.value)
        assert told.keys() == {*ORGANISATIONS}
        text = (
            f"failed to execute transaction {caught.value.transaction_id}: error sending: chaincode stream terminated"
        )
        assert set(told.values()) == {f"error in simulation: {text}"}
        with pytest.raises(EndorseError, match="failed to endorse transaction, see attached details") as away:
            await gateway.submit("strict", "Echo", "back", retries=0)
        assert away.value.status is grpc.StatusCode.ABORTED
        text = f"failed to execute transaction {away.value.transaction_id}: could not launch chaincode "
        assert said(network, away.value)["alpha"].startswith(f"error in simulation: {text}")
        # Told to try again, the client waits for its own organisation's service.
        waiting = asyncio.ensure_future(gateway.submit("strict", "Echo", "waited for", organisations=("alpha",)))
    finally:
        for name in ORGANISATIONS:
            if name not in network.servers:
                await network.start_service(name)
    with pytest.raises(CommitError, match="ENDORSEMENT_POLICY_FAILURE"):
        await waiting  # alpha alone was asked
    async with asyncio.timeout(SOON_S):
        while not await echoes(gateway):
            await asyncio.sleep(0.2)


async def echoes(gateway: Gateway) -> bool:
    """Whether every organisation endorses again."""
    try:
        return (await gateway.submit("strict", "Echo", "back")).payload == b"back"
    except GatewayError:
        return False


# Discovery


async def test_discovery_finds_enough_endorsers(gateway: Gateway) -> None:
    assert (await gateway.submit("strict", "Echo", "conga")).payload == b"conga"


async def test_discovery_without_enough_endorsers(network: AnyConsortium, gateway: Gateway) -> None:
    """The last test: a peer that was away takes time to be found again."""
    if isinstance(network, LocalConsortium):
        await asyncio.to_thread(network.processes.stop, ["peer-gamma"])
    else:
        await network.stop_service("gamma")
    try:
        with pytest.raises(EndorseError):
            await gateway.submit("strict", "Echo", "conga", retries=0)
    finally:
        if isinstance(network, LocalConsortium):
            await network.start_node()
        else:
            await network.start_service("gamma")
