"""The lifecycle against what real peers endorsed when the recorded definitions were approved and committed."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.peer import collection_pb2
from fabric_protos.peer.lifecycle import lifecycle_pb2

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.client.lifecycle import CollectionSpec, package_contract, package_id
from blockfl.fabric.embedded.endorsing.contract_host import ContractHost
from blockfl.fabric.embedded.endorsing.installation import Installation
from blockfl.fabric.embedded.endorsing.lifecycle_contract import LifecycleContract, LifecycleRefusal
from blockfl.fabric.embedded.endorsing.simulator import Simulator
from blockfl.fabric.embedded.ordering.ledger import PrivateValue
from blockfl.fabric.errors import NodeError
from blockfl.fabric.identity.policy import signature_policy
from blockfl.fabric.transaction.envelope import Transaction
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.validate import HashedValue, StateValue
from blockfl.fabric.validate.memory_state import MemoryState
from support.recording import recorded_blocks, recorded_json
from support.replay import replayed

LIFECYCLE = "_lifecycle"
ORGANISATION = "HospitalAMSP"


class WithPrivateValues:
    """A state before a recorded block, with the private lifecycle values that were written until then."""

    def __init__(self, state: MemoryState, number: int) -> None:
        self._state = state
        self._private: dict[tuple[str, str], PrivateValue] = {}
        for stored in recorded_json("private")["stored"]:
            if stored["chaincode"] != LIFECYCLE or stored["block"] >= number:
                continue
            for write in stored["writes"]:
                value = bytes.fromhex(write["value"])
                known = state.get_hash(LIFECYCLE, stored["collection"], sha256(write["key"].encode()).digest())
                if known is not None and known.value_hash == sha256(value).digest():
                    place = stored["collection"], write["key"]
                    self._private[place] = PrivateValue(value=value, version=known.version)

    def get(self, namespace: str, key: str) -> StateValue | None:
        return self._state.get(namespace, key)

    def range(self, namespace: str, start: str, end: str) -> Iterator[tuple[str, StateValue]]:
        return self._state.range(namespace, start, end)

    def get_hash(self, namespace: str, collection: str, key_hash: bytes) -> HashedValue | None:
        return self._state.get_hash(namespace, collection, key_hash)

    def private_get(self, organisation: str, namespace: str, collection: str, key: str) -> PrivateValue | None:
        return self._private.get((collection, key))

    def private_range(
        self, organisation: str, namespace: str, collection: str, start: str, end: str
    ) -> Iterator[tuple[str, PrivateValue]]:
        for (place, key), value in sorted(self._private.items()):
            if place == collection and start <= key < end:
                yield key, value


def recorded_calls() -> list[tuple[int, Transaction]]:
    found = []
    for block in recorded_blocks():
        for entry in recorded_json("expected")["transactions"]:
            if entry["block"] == block.header.number and entry["chaincode"] == LIFECYCLE:
                found.append((block.header.number, decode_transaction(block.data.data[entry["index"]])))
    return found


def simulator(state: Any, config: ChannelConfig, organisation: str) -> Simulator:
    return Simulator(
        state,
        organisation=organisation,
        channel="fed",
        organisations=config.application_msp_ids,
        is_member=lambda policy: True,
    )


def lifecycle(directory: Path, config: ChannelConfig, organisation: str = ORGANISATION) -> LifecycleContract:
    installation = Installation(directory / organisation, ContractHost(), {"addr": "127.0.0.1:9"})
    return LifecycleContract(organisation, installation, lambda: config, list)


@pytest.mark.parametrize(
    ("number", "transaction"), recorded_calls(), ids=[f"{n}-{t.args[0].decode()}" for n, t in recorded_calls()]
)
def test_a_recorded_call_gives_the_recorded_read_write_set(
    number: int, transaction: Transaction, tmp_path: Path
) -> None:
    step = replayed().steps[number]
    creator = step.config.msps.parse(transaction.creator).msp_id
    target = simulator(WithPrivateValues(step.state, number), step.config, creator)
    payload = lifecycle(tmp_path, step.config, creator).invoke(transaction.args, target)
    result = target.result()
    assert payload == transaction.response_payload
    assert result.public.hex() == transaction.results.hex()
    stored = {
        entry["collection"]: entry["rwset"]
        for entry in recorded_json("private")["stored"]
        if (entry["block"], entry["chaincode"]) == (number, LIFECYCLE) and entry.get("rwset")
    }
    assert {collection: rwset.hex() for (_, collection), rwset in result.private.items()} == stored


@pytest.fixture
def last() -> Any:
    return replayed().steps[-1]


def call(tmp_path: Path, last: Any, function: str, request: Any) -> bytes:
    target = simulator(WithPrivateValues(last.state, last.number), last.config, ORGANISATION)
    return lifecycle(tmp_path, last.config).invoke((function.encode(), request.SerializeToString()), target)


def definition(kind: Any, **changes: Any) -> Any:
    settings: dict[str, Any] = {"name": "other", "version": "1.0", "sequence": 1}
    return kind(**(settings | changes))


def test_queries_tell_what_the_ledger_holds(tmp_path: Path, last: Any) -> None:
    answer = call(tmp_path, last, "QueryChaincodeDefinition", lifecycle_pb2.QueryChaincodeDefinitionArgs(name="app"))
    found = lifecycle_pb2.QueryChaincodeDefinitionResult.FromString(answer)
    assert (found.version, found.sequence) == ("2.0", 2)
    assert set(found.approvals) == set(last.config.application_msp_ids)
    assert found.approvals["HospitalAMSP"]
    answer = call(tmp_path, last, "QueryChaincodeDefinitions", lifecycle_pb2.QueryChaincodeDefinitionsArgs())
    every = lifecycle_pb2.QueryChaincodeDefinitionsResult.FromString(answer)
    assert [one.name for one in every.chaincode_definitions] == ["app", "nodeapp"]
    answer = call(
        tmp_path,
        last,
        "QueryApprovedChaincodeDefinition",
        lifecycle_pb2.QueryApprovedChaincodeDefinitionArgs(name="app"),
    )
    approved = lifecycle_pb2.QueryApprovedChaincodeDefinitionResult.FromString(answer)
    assert approved.sequence == 2
    assert approved.source.local_package.package_id.startswith("app")
    answer = call(
        tmp_path, last, "QueryApprovedChaincodeDefinitions", lifecycle_pb2.QueryApprovedChaincodeDefinitionsArgs()
    )
    approvals = lifecycle_pb2.QueryApprovedChaincodeDefinitionsResult.FromString(answer)
    names = [(one.name, one.sequence) for one in approvals.approved_chaincode_definitions]
    assert names == [("app", 1), ("app", 2), ("nodeapp", 1)]


def test_an_undefined_chaincode_is_not_found(tmp_path: Path, last: Any) -> None:
    with pytest.raises(LifecycleRefusal, match="namespace nothing is not defined") as refusal:
        call(tmp_path, last, "QueryChaincodeDefinition", lifecycle_pb2.QueryChaincodeDefinitionArgs(name="nothing"))
    assert refusal.value.status == 404


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "no spaces"}, "invalid chaincode name"),
        ({"name": "qscc"}, "name of a system chaincode"),
        ({"version": "1 0"}, "invalid chaincode version"),
        ({"sequence": 0}, "first definable sequence number is 1"),
        ({"sequence": 2}, "larger than the next available sequence number 1"),
        ({"name": "app", "sequence": 1}, "missing in the proposed|currently defined sequence 2 is larger"),
        ({"name": "app", "sequence": 3}, "existing collection .* missing"),
    ],
)
def test_a_definition_that_makes_no_sense_is_not_approved(
    tmp_path: Path, last: Any, changes: dict[str, Any], reason: str
) -> None:
    request = definition(lifecycle_pb2.ApproveChaincodeDefinitionForMyOrgArgs, **changes)
    with pytest.raises(LifecycleRefusal, match=reason):
        call(tmp_path, last, "ApproveChaincodeDefinitionForMyOrg", request)


def test_a_definition_that_was_not_approved_is_not_committed(tmp_path: Path, last: Any) -> None:
    request = definition(lifecycle_pb2.CommitChaincodeDefinitionArgs)
    with pytest.raises(LifecycleRefusal, match=f"not agreed to by this org \\({ORGANISATION}\\)"):
        call(tmp_path, last, "CommitChaincodeDefinition", request)
    answer = call(tmp_path, last, "CheckCommitReadiness", definition(lifecycle_pb2.CheckCommitReadinessArgs))
    readiness = lifecycle_pb2.CheckCommitReadinessResult.FromString(answer)
    assert not any(readiness.approvals.values())
    assert list(readiness.mismatches[ORGANISATION].items) == ["ChaincodeParameters"]


def collection(**changes: Any) -> Any:
    static = CollectionSpec(name="c", members=(ORGANISATION,)).encode().static_collection_config
    for name, value in changes.items():
        if isinstance(value, int | str):
            setattr(static, name, value)
        else:
            getattr(static, name).CopyFrom(value)
    return collection_pb2.CollectionConfig(static_collection_config=static)


@pytest.mark.parametrize(
    ("collections", "reason"),
    [
        ([collection(name="_private")], "cannot begin with '_'"),
        ([collection(), collection()], "found duplicate"),
        ([collection(required_peer_count=1)], "cannot be less than the required peer count"),
        ([collection(required_peer_count=-1)], "cannot be less than zero"),
        ([collection(member_orgs_policy=collection_pb2.CollectionPolicyConfig())], "member policy is not set"),
        (
            [
                collection(
                    member_orgs_policy=collection_pb2.CollectionPolicyConfig(
                        signature_policy=signature_policy(1, ["StrangerMSP"])
                    )
                )
            ],
            "'StrangerMSP' is not part of the channel",
        ),
        (
            [
                collection(
                    member_orgs_policy=collection_pb2.CollectionPolicyConfig(
                        signature_policy=signature_policy(2, [ORGANISATION, "HospitalBMSP"])
                    )
                )
            ],
            "not an OR concatenation",
        ),
        ([collection_pb2.CollectionConfig()], "collection configuration is empty"),
    ],
)
def test_collections_that_make_no_sense_are_refused(
    tmp_path: Path, last: Any, collections: list[Any], reason: str
) -> None:
    package = collection_pb2.CollectionConfigPackage(config=collections)
    request = definition(lifecycle_pb2.ApproveChaincodeDefinitionForMyOrgArgs, collections=package)
    with pytest.raises(LifecycleRefusal, match=reason):
        call(tmp_path, last, "ApproveChaincodeDefinitionForMyOrg", request)


def test_an_installed_package_is_there_after_a_restart_and_a_damaged_one_is_named(tmp_path: Path, last: Any) -> None:
    package = package_contract("app_1.0", {"address": "{{.addr}}", "dial_timeout": "1s", "tls_required": False})
    request = lifecycle_pb2.InstallChaincodeArgs(chaincode_install_package=package)
    args = (b"InstallChaincode", request.SerializeToString())
    answer = lifecycle(tmp_path, last.config).invoke(args, None)
    assert lifecycle_pb2.InstallChaincodeResult.FromString(answer).package_id == package_id(package)
    again = lifecycle(tmp_path, last.config)
    with pytest.raises(LifecycleRefusal, match="already successfully installed"):
        again.invoke(args, None)
    listed = again.invoke((b"QueryInstalledChaincodes", b""), None)
    found = lifecycle_pb2.QueryInstalledChaincodesResult.FromString(listed).installed_chaincodes
    assert [one.label for one in found] == ["app_1.0"]
    (file,) = (tmp_path / ORGANISATION).iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(NodeError, match=file.name):
        lifecycle(tmp_path, last.config)


@pytest.mark.parametrize(
    ("archive", "reason"),
    [
        (b"", "could not parse the chaincode package"),
        (b"\x1f\x8b not a package", "could not parse the chaincode package"),
        (package_contract("a", {"address": "{{.nowhere}}"}), "have no such value"),
        (package_contract("a", {"address": "{{.addr}}", "tls_required": True}), "expected root_cert"),
        (package_contract("a", {"address": "here"}), "expected an address host:port"),
        (package_contract("a", {"address": "{{.addr}}", "dial_timeout": "soon"}), "expected a dial_timeout like 10s"),
    ],
)
def test_a_package_that_cannot_be_run_is_not_installed(tmp_path: Path, last: Any, archive: bytes, reason: str) -> None:
    request = lifecycle_pb2.InstallChaincodeArgs(chaincode_install_package=archive)
    with pytest.raises(LifecycleRefusal, match=reason):
        lifecycle(tmp_path, last.config).invoke((b"InstallChaincode", request.SerializeToString()), None)


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        ((), "exactly two arguments but received 0"),
        ((b"Nothing", b""), "no function 'Nothing'"),
        ((b"CommitChaincodeDefinition", b"\xff"), "could not parse its arguments"),
        ((b"CommitChaincodeDefinition", b""), "invalid channel-less operation"),
    ],
)
def test_a_malformed_call_is_refused(tmp_path: Path, last: Any, args: tuple[bytes, ...], reason: str) -> None:
    with pytest.raises(LifecycleRefusal, match=reason):
        lifecycle(tmp_path, last.config).invoke(args, None)
