"""Who must endorse what: chaincode, collection and key policies, each broken alone."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import utils
from fabric_protos.peer import transaction_pb2

from blockfl.fabric.identity.signing import parse_ecdsa_signature
from blockfl.fabric.transaction.rwset import (
    VALIDATION_PARAMETER,
    CollectionReadWriteSet,
    HashedMetadataWrite,
    HashedRead,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    Read,
    Version,
)
from blockfl.fabric.validate import HashedUpdate
from support.organisation import make_organisation
from support.scratch_ledger import (
    MAJORITY,
    ScratchLedger,
    digest,
    endorsement,
    genesis_config,
    key_metadata,
    key_policy,
    organisations,
    own_policy,
    peer,
    reference,
    same_key_elsewhere,
    scratch_ledger,
    writes,
)

VALID, FAILURE = "VALID", "ENDORSEMENT_POLICY_FAILURE"
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.fixture
def ledger() -> ScratchLedger:
    return scratch_ledger()


def private(
    collection: str, *keys: str, namespace: str = "app", policy_of: str = "", public: tuple[str, ...] = ()
) -> NamespaceReadWriteSet:
    hashed = CollectionReadWriteSet(
        collection=collection,
        writes=tuple(HashedWrite(key_hash=digest(key), value_hash=digest("value")) for key in keys),
        metadata_writes=(
            (
                HashedMetadataWrite(
                    key_hash=digest(policy_of), entries=((VALIDATION_PARAMETER, key_policy(1, "alpha")),)
                ),
            )
            if policy_of
            else ()
        ),
    )
    written = writes(namespace, **dict.fromkeys(public, b"value"))
    return NamespaceReadWriteSet(namespace=namespace, writes=written.writes, collections=(hashed,))


def ruling(key: str, policy: bytes | None) -> NamespaceReadWriteSet:
    entries = () if policy is None else ((VALIDATION_PARAMETER, policy),)
    return NamespaceReadWriteSet(namespace="app", metadata_writes=(MetadataWrite(key=key, entries=entries),))


@pytest.mark.parametrize(
    ("endorsers", "code"),
    [
        (("alpha", "beta", "gamma"), VALID),
        (("delta", "gamma", "beta"), VALID),
        (("alpha", "beta", "gamma", "delta"), VALID),
        (("alpha", "beta"), FAILURE),
        (("alpha", "alpha", "alpha"), FAILURE),
        ((), FAILURE),
    ],
)
def test_a_chaincode_needs_the_majority(ledger: ScratchLedger, endorsers: tuple[str, ...], code: str) -> None:
    assert ledger.code(ledger.craft([writes("app", key=b"value")], endorsers=endorsers)) == code


def test_two_peers_of_one_organisation_are_not_two_organisations(ledger: ScratchLedger) -> None:
    second = organisations()["alpha"].signer("peer1", "peer")
    assert ledger.code(ledger.craft([writes("app", k=b"v")], endorsers=["alpha", second, "beta"])) == FAILURE


@pytest.mark.parametrize("unit", ["client", "admin", "orderer", None])
def test_only_peers_endorse(ledger: ScratchLedger, unit: Any) -> None:
    other = organisations()["gamma"].signer("peer0", unit)
    assert ledger.code(ledger.craft([writes("app", k=b"v")], endorsers=["alpha", "beta", other])) == FAILURE


def test_endorsers_of_foreign_authorities_do_not_count(ledger: ScratchLedger) -> None:
    foreign = make_organisation("gamma").signer("peer0", "peer")
    renamed = same_key_elsewhere(peer("alpha"), "gamma")
    for endorser in (foreign, renamed):
        assert ledger.code(ledger.craft([writes("app", k=b"v")], endorsers=["alpha", "beta", endorser])) == FAILURE
    assert ledger.code(ledger.craft([writes("app", k=b"v")], endorsers=[foreign, renamed, *MAJORITY])) == VALID


def broken_signature(one: Any) -> None:
    one.signature = one.signature[:-1] + bytes([one.signature[-1] ^ 1])


def high_s(one: Any) -> None:
    r, s = parse_ecdsa_signature(one.signature)
    one.signature = utils.encode_dss_signature(r, P256_ORDER - s)


def other_endorser(one: Any) -> None:
    one.endorser = peer("delta").identity.serialized


@pytest.mark.parametrize("breaks", [broken_signature, high_s, other_endorser])
def test_a_broken_endorsement_does_not_count(ledger: ScratchLedger, breaks: Any) -> None:
    def change(endorsements: list[Any]) -> None:
        breaks(endorsements[-1])

    short = ledger.craft([writes("app", k=b"v")], endorsements=change)
    enough = ledger.craft([writes("app", k=b"v")], endorsers=["delta", *MAJORITY], endorsements=change)
    assert (ledger.code(short), ledger.code(enough)) == (FAILURE, VALID)


def test_a_broken_endorsement_before_a_good_one_of_the_same_endorser_does_no_harm(ledger: ScratchLedger) -> None:
    def change(endorsements: list[Any]) -> None:
        broken_signature(endorsements[0])

    envelope = ledger.craft([writes("app", k=b"v")], endorsers=["alpha", *MAJORITY], endorsements=change)
    assert ledger.code(envelope) == VALID


def test_endorsements_hold_for_the_response_that_was_endorsed_and_no_other(ledger: ScratchLedger) -> None:
    nonce = b"n" * 24
    endorsed: list[bytes] = []
    ledger.craft([writes("app", k=b"v")], nonce=nonce, signed_response=endorsed.append)

    def stale(_: list[Any]) -> list[Any]:
        return [endorsement(peer(name), endorsed[0]) for name in MAJORITY]

    same = ledger.craft([writes("app", k=b"v")], nonce=nonce, endorsements=stale)
    other_writes = ledger.craft([writes("app", k=b"w")], nonce=nonce, endorsements=stale)
    other_answer = ledger.craft(
        [writes("app", k=b"v")],
        nonce=nonce,
        endorsements=stale,
        action=lambda action: setattr(action.response, "payload", b"replaced"),
    )
    assert ledger.code(same) == VALID
    assert ledger.code(other_writes) == ledger.code(other_answer) == FAILURE


def test_a_chaincode_without_a_definition_is_invalid(ledger: ScratchLedger) -> None:
    assert ledger.code(ledger.craft(chaincode="nosuch")) == "INVALID_CHAINCODE"
    assert ledger.code(ledger.craft([writes("nosuch", k=b"v")])) == "INVALID_CHAINCODE"
    for name in ("lscc", "qscc", "cscc"):
        assert ledger.code(ledger.craft(chaincode=name)) == "INVALID_CHAINCODE"


def test_reading_a_namespace_without_a_definition_is_allowed(ledger: ScratchLedger) -> None:
    reads = NamespaceReadWriteSet(namespace="nosuch", reads=(Read(key="k", version=None),))
    assert ledger.code(ledger.craft([writes("app", k=b"v"), reads])) == VALID


def test_an_unusable_definition_makes_its_transactions_invalid_and_no_others(ledger: ScratchLedger) -> None:
    ledger.define("plugin", plugin="another")
    ledger.define("typed", datatype="SomethingElse")
    ledger.define("unruled", policy=b"")
    ledger.define("unplugged", plugin="")
    ledger.define("damaged")
    ledger.put("_lifecycle", "namespaces/fields/damaged/ValidationInfo", b"\xff\xff")
    for name in ("plugin", "typed", "damaged"):
        assert ledger.code(ledger.craft(chaincode=name)) == "INVALID_OTHER_REASON"
    for name in ("unruled", "unplugged"):
        assert ledger.code(ledger.craft(chaincode=name)) == "INVALID_CHAINCODE"
    assert ledger.code(ledger.craft()) == VALID


@pytest.mark.parametrize(
    "policy", [b"\xff\xff", b"\x0a\x00", reference("/Channel/Application/NoSuch"), b"\x12\x00", b"\x0a\x02\x08\x05"]
)
def test_a_malformed_policy_is_satisfied_by_nobody(ledger: ScratchLedger, policy: bytes) -> None:
    ledger.define("broken", policy=policy)
    everybody = ("alpha", "beta", "gamma", "delta")
    assert ledger.code(ledger.craft(chaincode="broken", endorsers=everybody)) == FAILURE


def test_every_written_namespace_needs_its_own_endorsements(ledger: ScratchLedger) -> None:
    ledger.define("strict", policy=own_policy(4, "alpha", "beta", "gamma", "delta"))
    both = [writes("app", k=b"v"), writes("strict", k=b"v")]
    assert ledger.code(ledger.craft(both)) == FAILURE
    assert ledger.code(ledger.craft(both, endorsers=("alpha", "beta", "gamma", "delta"))) == VALID


def test_writing_only_another_namespace_still_needs_the_called_chaincodes_policy(ledger: ScratchLedger) -> None:
    ledger.define("free", policy=own_policy(1, "alpha"))
    assert ledger.code(ledger.craft([writes("free", k=b"v")], endorsers=["alpha"])) == FAILURE
    assert ledger.code(ledger.craft([writes("free", k=b"v")])) == VALID
    assert ledger.code(ledger.craft([writes("free", k=b"v")], chaincode="free", endorsers=["alpha"])) == VALID


def test_a_transaction_without_writes_needs_the_chaincode_policy(ledger: ScratchLedger) -> None:
    reads = NamespaceReadWriteSet(
        namespace="app",
        collections=(CollectionReadWriteSet(collection="sealed", reads=(HashedRead(key_hash=b"h", version=None),)),),
    )
    for namespaces in ([], [reads]):
        assert ledger.code(ledger.craft(namespaces)) == VALID
        assert ledger.code(ledger.craft(namespaces, endorsers=["alpha", "beta"])) == FAILURE


def test_a_collections_own_policy_takes_the_place_of_the_chaincodes(ledger: ScratchLedger) -> None:
    assert ledger.code(ledger.craft([private("sealed", "k")], endorsers=["alpha", "beta"])) == VALID
    assert ledger.code(ledger.craft([private("sealed", "k")], endorsers=["alpha"])) == FAILURE
    assert ledger.code(ledger.craft([private("sealed", "k")], endorsers=["beta", "gamma", "delta"])) == FAILURE


def test_a_collection_without_a_policy_follows_the_chaincode(ledger: ScratchLedger) -> None:
    assert ledger.code(ledger.craft([private("notes", "k")])) == VALID
    assert ledger.code(ledger.craft([private("notes", "k")], endorsers=["alpha", "beta"])) == FAILURE


def test_a_private_and_a_public_write_need_both_policies(ledger: ScratchLedger) -> None:
    both = [private("sealed", "k", public=("p",))]
    assert ledger.code(ledger.craft(both, endorsers=["alpha", "beta"])) == FAILURE
    assert ledger.code(ledger.craft(both, endorsers=["beta", "gamma", "delta"])) == FAILURE
    assert ledger.code(ledger.craft(both)) == VALID


def test_only_metadata_of_a_private_key_needs_the_collections_policy_too(ledger: ScratchLedger) -> None:
    assert ledger.code(ledger.craft([private("sealed", policy_of="k")], endorsers=["alpha"])) == FAILURE
    assert ledger.code(ledger.craft([private("sealed", policy_of="k")], endorsers=["alpha", "beta"])) == VALID


def test_a_collection_that_does_not_exist_cannot_be_written(ledger: ScratchLedger) -> None:
    everybody = ("alpha", "beta", "gamma", "delta")
    for name in ("nosuch", "_implicit_org_omega", "_implicit_org_"):
        assert ledger.code(ledger.craft([private(name, "k")], endorsers=everybody)) == FAILURE
    assert ledger.code(ledger.craft([private("sealed", "k", namespace="other")], endorsers=everybody)) == FAILURE


def test_an_implicit_collection_is_ruled_by_its_organisation_in_every_chaincode(ledger: ScratchLedger) -> None:
    for namespace in ("app", "other", "_lifecycle"):
        approve = [private("_implicit_org_beta", "k", namespace=namespace)]
        assert ledger.code(ledger.craft(approve, chaincode=namespace, endorsers=["beta"])) == VALID
        assert ledger.code(ledger.craft(approve, chaincode=namespace, endorsers=["alpha", "gamma", "delta"])) == FAILURE


def test_the_lifecycle_namespace_is_ruled_by_the_channels_lifecycle_policy(ledger: ScratchLedger) -> None:
    commit = [writes("_lifecycle", **{"namespaces/fields/new/Sequence": b"\x08\x01"})]
    assert ledger.code(ledger.craft(commit, chaincode="_lifecycle")) == VALID
    assert ledger.code(ledger.craft(commit, chaincode="_lifecycle", endorsers=["alpha", "beta"])) == FAILURE
    assert ledger.code(ledger.craft(commit, chaincode="app", endorsers=["alpha", "beta"])) == FAILURE


def test_the_lifecycle_has_no_explicit_collections(ledger: ScratchLedger) -> None:
    assert (
        ledger.code(ledger.craft([private("sealed", "k", namespace="_lifecycle")], chaincode="_lifecycle")) == FAILURE
    )


def test_without_policies_for_lifecycle_and_organisations_members_decide() -> None:
    config = genesis_config()
    stripped = type(config.config)()
    stripped.CopyFrom(config.config)
    application = stripped.channel_group.groups["Application"]
    del application.policies["LifecycleEndorsement"]
    del application.groups["beta"].policies["Endorsement"]
    ledger = ScratchLedger(type(config).from_config(stripped, config.channel_id))
    clients = [organisations()[name].signer("user", "client") for name in MAJORITY]
    commit = [writes("_lifecycle", key=b"value")]
    assert ledger.code(ledger.craft(commit, chaincode="_lifecycle", endorsers=clients)) == VALID
    assert ledger.code(ledger.craft(commit, chaincode="_lifecycle", endorsers=clients[:2])) == FAILURE
    approve = [private("_implicit_org_beta", "k", namespace="_lifecycle")]
    assert ledger.code(ledger.craft(approve, chaincode="_lifecycle", endorsers=[clients[1]])) == VALID
    assert ledger.code(ledger.craft(approve, chaincode="_lifecycle", endorsers=[clients[0]])) == FAILURE


def test_a_keys_own_policy_takes_the_place_of_the_chaincodes(ledger: ScratchLedger) -> None:
    ledger.put("app", "ruled", b"value", policy=key_policy(2, "alpha", "delta"))
    assert ledger.code(ledger.craft([writes("app", ruled=b"new")], endorsers=["alpha", "delta"])) == VALID
    assert ledger.code(ledger.craft([writes("app", ruled=b"new")])) == FAILURE
    assert ledger.code(ledger.craft([writes("app", ruled=b"")], endorsers=["alpha", "delta"])) == VALID
    assert ledger.code(ledger.craft([writes("app", ruled=b"")])) == FAILURE


def test_a_ruled_and_an_ordinary_key_need_both_policies(ledger: ScratchLedger) -> None:
    ledger.put("app", "ruled", b"value", policy=key_policy(2, "alpha", "delta"))
    both = [writes("app", ruled=b"new", plain=b"new")]
    assert ledger.code(ledger.craft(both, endorsers=["alpha", "delta"])) == FAILURE
    assert ledger.code(ledger.craft(both)) == FAILURE
    assert ledger.code(ledger.craft(both, endorsers=["alpha", "beta", "delta"])) == VALID


def test_reading_a_ruled_key_does_not_involve_its_policy(ledger: ScratchLedger) -> None:
    ledger.put("app", "ruled", b"value", policy=key_policy(2, "alpha", "delta"))
    reads = NamespaceReadWriteSet(namespace="app", reads=(Read(key="ruled", version=Version(0, 0)),))
    assert ledger.code(ledger.craft([reads])) == VALID


def test_changing_a_keys_policy_needs_the_policy_that_it_has(ledger: ScratchLedger) -> None:
    ledger.put("app", "ruled", b"value", policy=key_policy(2, "alpha", "delta"))
    for policy in (key_policy(1, "beta"), b"", None):
        assert ledger.code(ledger.craft([ruling("ruled", policy)])) == FAILURE
        assert ledger.code(ledger.craft([ruling("ruled", policy)], endorsers=["alpha", "delta"])) == VALID


def test_setting_a_policy_on_an_ordinary_key_needs_the_chaincodes(ledger: ScratchLedger) -> None:
    ledger.put("app", "plain", b"value")
    assert ledger.code(ledger.craft([ruling("plain", key_policy(1, "beta"))], endorsers=["beta"])) == FAILURE
    assert ledger.code(ledger.craft([ruling("plain", key_policy(1, "beta"))])) == VALID


def test_an_empty_key_policy_means_the_chaincodes(ledger: ScratchLedger) -> None:
    ledger.put("app", "plain", b"value", policy=b"")
    assert ledger.code(ledger.craft([writes("app", plain=b"new")])) == VALID
    assert ledger.code(ledger.craft([writes("app", plain=b"new")], endorsers=["alpha"])) == FAILURE


@pytest.mark.parametrize("policy", [b"\xff\xff", b"\x08\x01", b"\x12\x02\x08\x09", b"\x1a\x00"])
def test_a_malformed_key_policy_is_satisfied_by_nobody(ledger: ScratchLedger, policy: bytes) -> None:
    ledger.put("app", "ruled", b"value", policy=policy)
    everybody = ("alpha", "beta", "gamma", "delta")
    assert ledger.code(ledger.craft([writes("app", ruled=b"new")], endorsers=everybody)) == FAILURE


def test_a_private_keys_own_policy_takes_the_place_of_the_collections(ledger: ScratchLedger) -> None:
    ledger.seed(
        HashedUpdate(
            namespace="app",
            collection="sealed",
            key_hash=digest("k"),
            value_hash=digest("value"),
            version=Version(0, 0),
            metadata=key_metadata(key_policy(2, "gamma", "delta")),
        )
    )
    assert ledger.code(ledger.craft([private("sealed", "k")], endorsers=["gamma", "delta"])) == VALID
    assert ledger.code(ledger.craft([private("sealed", "k")], endorsers=["alpha", "beta"])) == FAILURE
    assert ledger.code(ledger.craft([private("sealed", "other")], endorsers=["alpha", "beta"])) == VALID


def test_after_a_change_of_a_keys_policy_the_block_takes_no_more_writes_of_it(ledger: ScratchLedger) -> None:
    ledger.put("app", "key", b"value")
    everybody = ("alpha", "beta", "gamma", "delta")
    change = ledger.craft([ruling("key", key_policy(1, "alpha"))])
    blocked = [ledger.craft([writes("app", key=b"new")], endorsers=everybody) for _ in range(2)]
    blocked.append(ledger.craft([ruling("key", b"")], endorsers=everybody))
    free = ledger.craft([writes("app", another=b"new")])
    codes = ledger.validate(blocked[0], change, *blocked[1:], free).codes
    assert [transaction_pb2.TxValidationCode.Name(code) for code in codes] == [VALID, VALID, FAILURE, FAILURE, VALID]


def test_after_a_change_of_a_private_keys_policy_the_block_takes_no_more_writes_of_it(ledger: ScratchLedger) -> None:
    change = ledger.craft([private("sealed", policy_of="k")])
    same, other = (ledger.craft([private("sealed", key)]) for key in ("k", "l"))
    elsewhere = ledger.craft([private("notes", "k")])
    codes = ledger.validate(change, same, other, elsewhere).codes
    assert [transaction_pb2.TxValidationCode.Name(code) for code in codes] == [VALID, FAILURE, VALID, VALID]


def test_a_change_of_policy_that_fails_its_own_endorsement_blocks_nobody(ledger: ScratchLedger) -> None:
    ledger.put("app", "key", b"value")
    failed = ledger.craft([ruling("key", key_policy(1, "alpha"))], endorsers=["alpha"])
    assert ledger.validate(failed, ledger.craft([writes("app", key=b"new")])).codes[1] == transaction_pb2.VALID


def test_a_change_of_policy_that_only_fails_by_its_reads_still_blocks(ledger: ScratchLedger) -> None:
    ledger.put("app", "key", b"value")
    stale = NamespaceReadWriteSet(
        namespace="app",
        reads=(Read(key="key", version=Version(9, 9)),),
        metadata_writes=ruling("key", key_policy(1, "alpha")).metadata_writes,
    )
    codes = ledger.validate(ledger.craft([stale]), ledger.craft([writes("app", key=b"new")])).codes
    names = [transaction_pb2.TxValidationCode.Name(code) for code in codes]
    assert names == ["MVCC_READ_CONFLICT", FAILURE]


def test_a_change_of_policy_counts_by_namespace_even_if_another_namespace_fails(ledger: ScratchLedger) -> None:
    ledger.define("strict", policy=own_policy(4, "alpha", "beta", "gamma", "delta"))
    ledger.put("app", "key", b"value")
    half = ledger.craft([writes("strict", k=b"v"), ruling("key", key_policy(1, "alpha"))])
    codes = ledger.validate(half, ledger.craft([writes("app", key=b"new")])).codes
    assert [transaction_pb2.TxValidationCode.Name(code) for code in codes] == [FAILURE, FAILURE]


def test_the_new_policy_holds_from_the_next_block_on(ledger: ScratchLedger) -> None:
    ledger.put("app", "key", b"value")
    ledger.commit(ledger.craft([ruling("key", key_policy(1, "delta"))]))
    assert ledger.code(ledger.craft([writes("app", key=b"new")])) == FAILURE
    assert ledger.code(ledger.craft([writes("app", key=b"new")], endorsers=["delta"])) == VALID
    ledger.commit(ledger.craft([writes("app", key=b"")], endorsers=["delta"]))
    assert ledger.code(ledger.craft([writes("app", key=b"again")])) == VALID
