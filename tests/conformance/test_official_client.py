"""The official Node gateway client runs unchanged against the embedded node, and sees what it sees of real Fabric."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from blockfl.fabric.client.gateway import Gateway
from blockfl.fabric.client.lifecycle import CollectionSpec
from blockfl.fabric.client.signable import FILTERED_BLOCKS
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.identity.signing import private_key_pem
from support.consortium import CHANNEL, CONTRACT, AnyConsortium, any_consortium
from support.node_runtime import NodeRuntime
from support.observation import mask
from support.operations_contract import encode_operations, operations_contract
from support.stories import settle

pytestmark = [pytest.mark.node, pytest.mark.asyncio(loop_scope="module")]

ORGANISATIONS = ("alpha", "beta", "gamma")
# What the official client was told by a real peer; RECORD_WORDS=1 and --ledger local write it anew.
WORDS = Path(__file__).parents[1] / "recordings" / "official_client.json"
SHARED = CollectionSpec(
    name="shared", members=("alpha", "beta"), endorsement_policy=signature_policy(2, ("alpha", "beta"))
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory, ledger_kind: str) -> AsyncIterator[AnyConsortium]:
    async with any_consortium(
        ledger_kind,
        tmp_path_factory.mktemp("network"),
        organisations=ORGANISATIONS,
        handler=operations_contract,
        collections=(SHARED,),
    ) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="module")
async def network(running: AnyConsortium) -> AnyConsortium:
    """The network, when every peer has what the test before has left."""
    await settle(running, ORGANISATIONS)
    return running


async def height_of(network: AnyConsortium) -> int:
    async with network.gateway("alpha") as gateway:
        return await gateway.height()


async def run(runtime: NodeRuntime, network: AnyConsortium, scenario: str, directory: Path, **more: str) -> Any:
    signer = network.signer("alpha")
    settings = {
        "address": network.endpoint("alpha").address,
        "tlsRoots": network.endpoint("alpha").tls_roots_pem.decode(),
        "mspId": "alpha",
        "certificate": signer.identity.certificate_pem.decode(),
        "privateKey": private_key_pem(signer.private_key).decode(),
        "channel": CHANNEL,
        "chaincode": CONTRACT,
        **more,
    }
    return await runtime.run_scenario(settings, scenario, directory)


async def test_it_submits_and_evaluates(node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path) -> None:
    height = await height_of(network)
    seen = await run(node_runtime, network, "submit", tmp_path)
    assert seen == {
        "submitted": [None, "alpha"],
        "evaluated": [b"one".hex()],
        "status": {"code": 0, "successful": True, "block": height + 1},
        "sameId": True,
    }


async def test_it_signs_offline(node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path) -> None:
    height = await height_of(network)
    seen = await run(node_runtime, network, "offline", tmp_path)
    assert (seen["successful"], seen["block"], seen["result"]) == (True, height, [None])
    assert (seen["forged"]["name"], seen["forged"]["code"]) == ("CommitStatusError", "PERMISSION_DENIED")


async def test_transient_data_reaches_the_contract_and_nothing_else(
    node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path
) -> None:
    seen = await run(node_runtime, network, "transient", tmp_path)
    assert seen == {"successful": True, "leaked": False, "same": True, "named": True}


async def test_chaincode_events_continue_at_a_checkpoint(
    node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path
) -> None:
    seen = await run(node_runtime, network, "events", tmp_path)
    assert seen["seen"] == [["first", "1", CONTRACT], ["second", "second", CONTRACT]]
    assert seen["rest"] == [["third", "third", CONTRACT], ["fourth", "live", CONTRACT]]


async def test_it_follows_blocks_filtered_blocks_and_private_data(
    node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path
) -> None:
    seen = await run(node_runtime, network, "blocks", tmp_path)
    assert seen["all"] == [0, 1, 2]
    assert seen["filtered"] == [
        {"number": seen["block"], "channel": CHANNEL, "transactions": [[seen["transactionId"], 0]]}
    ]
    assert seen["withPrivate"] == [{"number": seen["block"], "collections": ["shared"]}]


async def test_errors_have_the_codes_and_details_of_a_real_peer(
    node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path
) -> None:
    seen = await run(node_runtime, network, "errors", tmp_path)
    refusal = "chaincode response 500, BFL104 round 7 is closed"
    assert (seen["evaluate"]["name"], seen["evaluate"]["code"]) == ("GatewayError", "UNKNOWN")
    assert seen["evaluate"]["details"] == [{"mspId": "alpha", "message": refusal}]
    assert (seen["endorse"]["name"], seen["endorse"]["code"]) == ("EndorseError", "ABORTED")
    assert seen["endorse"]["details"] == [{"mspId": "alpha", "message": refusal}]
    assert seen["endorse"]["transactionId"]
    assert seen["unknownChaincode"]["code"] == "FAILED_PRECONDITION"
    assert (seen["unknownOrganisation"]["name"], seen["unknownOrganisation"]["code"]) == ("EndorseError", "UNAVAILABLE")
    assert "nobody" in seen["unknownOrganisation"]["message"]
    assert "result" not in seen["stranger"]
    assert seen["lost"] == {"code": 11, "successful": False}
    assert seen["commit"]["message"] == "code 11"


async def test_many_transactions_at_once(node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path) -> None:
    seen = await run(node_runtime, network, "parallel", tmp_path)
    assert seen == {"results": ["[null]"] * 16, "count": 16}


async def test_what_goes_wrong_is_told_in_a_real_peers_words(
    node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path
) -> None:
    seen = json.loads(mask(json.dumps(await run(node_runtime, network, "words", tmp_path))))
    for answer in seen.values():
        # Those who are asked at once answer in any order.
        answer.get("details", []).sort(key=lambda detail: detail["mspId"])
    if os.environ.get("RECORD_WORDS"):
        WORDS.write_text(json.dumps(seen, indent=1, sort_keys=True) + "\n")
    assert seen == json.loads(WORDS.read_text())


async def test_filtered_blocks_show_codes_and_the_names_of_events(
    node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path
) -> None:
    seen = await run(node_runtime, network, "filtered", tmp_path)
    event = [CONTRACT, "lost", ""]
    assert seen == [
        [{"code": 0, "type": 3, "mine": 0, "events": [event]}],
        [{"code": 11, "type": 3, "mine": 1, "events": [event]}],
    ]


async def test_requests_pass_between_our_client_and_the_official_one(
    node_runtime: NodeRuntime, network: AnyConsortium, tmp_path: Path
) -> None:
    identity, signer = network.signer("alpha").identity, network.signer("alpha")
    async with Gateway(network.endpoint("alpha"), identity, CHANNEL) as gateway:
        made = gateway.new_proposal(
            CONTRACT, "Run", encode_operations(["put", "handed", "over"], ["emit", "handed", "over"])
        )
        seen = await run(node_runtime, network, "handover", tmp_path, proposal=made.to_bytes().hex())
        assert (seen["id"], seen["result"]) == (made.transaction_id, "[null,null]")
        commit = gateway.commit_from(bytes.fromhex(seen["commit"]))
        status = await commit.signed(signer.sign(commit.message)).read_status()
        assert (status.is_valid, status.transaction_id) == (True, made.transaction_id)
        events = gateway.events_from(bytes.fromhex(seen["events"]))
        async with aclosing(events.signed(signer.sign(events.message)).read()) as answers:
            async for event in answers:
                if event.transaction_id == made.transaction_id:
                    break
        assert event.name == "handed"
        blocks = gateway.blocks_from(bytes.fromhex(seen["blocks"]), FILTERED_BLOCKS)
        async with aclosing(blocks.signed(signer.sign(blocks.message)).read()) as answers:
            assert (await anext(answers)).number == 0
