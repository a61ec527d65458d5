"""What valid transactions change: values, metadata, deletes, purges, and what real peers make of odd combinations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockfl.fabric.transaction.rwset import (
    CollectionReadWriteSet,
    HashedMetadataWrite,
    HashedRead,
    HashedWrite,
    MetadataWrite,
    NamespaceReadWriteSet,
    ReadWriteSet,
    Version,
    Write,
    encode_metadata,
)
from blockfl.fabric.validate import (
    CONFIG_KEY,
    CONFIG_NAMESPACE,
    HashedUpdate,
    PublicUpdate,
    StateUpdates,
    StateValue,
    validate_block,
)
from blockfl.fabric.validate.memory_state import MemoryState
from blockfl.fabric.validate.updates import UpdateBatch
from reference.updates import encode_updates_naively
from support.key_operations import OPERATIONS, OTHER, POLICY, delete, rule, write
from support.scratch_ledger import (
    MAJORITY,
    ScratchLedger,
    digest,
    genesis,
    genesis_config,
    own_policy,
    scratch_ledger,
    writes,
)

NAMESPACE = "n"
OLD, NEW = Version(1, 0), Version(2, 3)


def stored(key: str = "k") -> MemoryState:
    state = MemoryState()
    update = PublicUpdate(namespace=NAMESPACE, key=key, value=b"old", version=OLD, metadata=encode_metadata(POLICY))
    state.apply(StateUpdates(number=1, public=(update,)), ())
    return state


def no_expiry(namespace: str, collection: str) -> int | None:
    return None


def outcome(state: MemoryState, *transactions: list[Write | MetadataWrite]) -> dict[str, Any]:
    """Value, version and metadata of every changed key."""
    batch = UpdateBatch(state)
    for index, operations in enumerate(transactions):
        namespace = NamespaceReadWriteSet(
            namespace=NAMESPACE,
            writes=tuple(o for o in operations if isinstance(o, Write)),
            metadata_writes=tuple(o for o in operations if isinstance(o, MetadataWrite)),
        )
        batch.apply(ReadWriteSet(namespaces=(namespace,)), NEW._replace(tx=NEW.tx + index))
    updates = batch.finish(2, no_expiry)
    return {u.key: (u.value, u.version, u.metadata) for u in updates.public}


@pytest.mark.parametrize("what", OPERATIONS)
def test_operations_on_a_key_that_exists(what: str) -> None:
    operations, (value, metadata) = OPERATIONS[what]
    assert outcome(stored(), operations) == {"k": (value, NEW, metadata)}


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([write()], {"k": (b"new", NEW, b"")}),
        ([delete()], {"k": (None, NEW, b"")}),
        ([rule(POLICY)], {}),
        ([rule(())], {}),
        ([write(), rule(POLICY)], {"k": (b"new", NEW, encode_metadata(POLICY))}),
        ([write(b"1"), write(b"2")], {}),
        ([delete(), delete()], {}),
    ],
)
def test_operations_on_a_key_that_does_not_exist(operations: list[Any], expected: dict[str, Any]) -> None:
    assert outcome(MemoryState(), operations) == expected


def test_a_transaction_builds_on_the_ones_before_it_in_the_block() -> None:
    second = NEW._replace(tx=NEW.tx + 1)
    assert outcome(MemoryState(), [write(), rule(POLICY)], [write(b"2")]) == {
        "k": (b"2", second, encode_metadata(POLICY))
    }
    assert outcome(MemoryState(), [write()], [rule(POLICY)]) == {"k": (b"new", second, encode_metadata(POLICY))}
    assert outcome(stored(), [delete()], [write()]) == {"k": (b"new", second, b"")}
    assert outcome(stored(), [delete()], [rule(POLICY)]) == {"k": (None, NEW, b"")}


KEYS = st.sampled_from(["a", "b", "c"])
CHANGES = st.one_of(
    st.tuples(st.just("write"), KEYS, st.sampled_from([b"", b"1", b"2"])),
    st.tuples(st.just("rule"), KEYS, st.sampled_from([(), POLICY, OTHER])),
)


@given(st.lists(st.lists(CHANGES, unique_by=lambda operation: operation[:2])))
def test_each_key_changed_once_in_a_transaction_comes_out_as_applied_one_by_one(
    transactions: list[list[tuple[str, str, Any]]],
) -> None:
    expected = {"a": (b"old", OLD, encode_metadata(POLICY))}
    for index, operations in enumerate(transactions):
        apply_naively(expected, operations, NEW._replace(tx=NEW.tx + index))
    batches = [
        [write(content, key) if kind == "write" else rule(content, key) for kind, key, content in operations]
        for operations in transactions
    ]
    changed = outcome(stored("a"), *batches)
    found = {"a": (b"old", OLD, encode_metadata(POLICY)), **changed}
    assert {key: entry for key, entry in found.items() if entry[0] is not None} == expected


def apply_naively(
    state: dict[str, tuple[bytes, Version, bytes]], operations: list[tuple[str, str, Any]], version: Version
) -> None:
    before = dict(state)
    for key in {operation[1] for operation in operations}:
        values = [content for kind, name, content in operations if (kind, name) == ("write", key)]
        rules = [content for kind, name, content in operations if (kind, name) == ("rule", key)]
        value, _, metadata = before.get(key, (None, OLD, b""))
        if values:
            value = values[0] or None
        if rules:
            metadata = encode_metadata(rules[0])
        if value is None:
            state.pop(key, None)
        else:
            state[key] = (value, version, metadata)


NAMES = st.sampled_from(["", "app", "app0", "é", "_lifecycle"])
PUBLIC = st.builds(
    PublicUpdate,
    namespace=NAMES,
    key=st.text(max_size=3),
    value=st.one_of(st.none(), st.binary(min_size=1, max_size=200)),
    version=st.builds(Version, st.integers(0, 2**40), st.integers(0, 300)),
)
HASHED = st.builds(
    HashedUpdate,
    namespace=NAMES.filter(bool),
    collection=st.sampled_from(["c", "d", "_implicit_org_x"]),
    key_hash=st.binary(min_size=1, max_size=3),
    value_hash=st.one_of(st.none(), st.binary(min_size=1, max_size=32)),
    version=st.builds(Version, st.integers(0, 2**40), st.integers(0, 300)),
)


@given(
    st.lists(PUBLIC, unique_by=lambda u: (u.namespace, u.key)),
    st.lists(HASHED, unique_by=lambda u: (u.namespace, u.collection, u.key_hash)),
)
def test_the_bytes_in_the_commit_hash_equal_a_message_built_by_the_letter(
    public: list[PublicUpdate], hashed: list[HashedUpdate]
) -> None:
    updates = StateUpdates(
        number=1,
        public=tuple(sorted(public, key=lambda u: (u.namespace, u.key))),
        hashed=tuple(sorted(hashed, key=lambda u: (u.namespace, u.collection, u.key_hash))),
    )
    assert updates.encoded == encode_updates_naively(updates)


@pytest.fixture
def ledger() -> ScratchLedger:
    return scratch_ledger()


def private(*writes: HashedWrite, rules: tuple[HashedMetadataWrite, ...] = ()) -> NamespaceReadWriteSet:
    collection = CollectionReadWriteSet(collection="notes", writes=writes, metadata_writes=rules)
    return NamespaceReadWriteSet(namespace="app", collections=(collection,))


def hashed_write(key: str, **fields: Any) -> HashedWrite:
    return HashedWrite(key_hash=digest(key), **fields)


def test_private_writes_change_the_hashed_state(ledger: ScratchLedger) -> None:
    value_hash = digest("value")
    rules = (HashedMetadataWrite(key_hash=digest("k"), entries=POLICY),)
    ledger.commit(ledger.craft([private(hashed_write("k", value_hash=value_hash), rules=rules)]))
    stored_hash = ledger.state.get_hash("app", "notes", digest("k"))
    assert stored_hash is not None
    assert (stored_hash.value_hash, stored_hash.version) == (value_hash, Version(1, 0))
    assert stored_hash.metadata == encode_metadata(POLICY)


@pytest.mark.parametrize(
    "fields", [{"is_delete": True}, {}, {"value_hash": digest("")}, {"is_delete": True, "is_purge": True}]
)
def test_a_private_delete_has_many_forms(ledger: ScratchLedger, fields: dict[str, Any]) -> None:
    ledger.commit(ledger.craft([private(hashed_write("k", value_hash=digest("value")))]))
    assert ledger.state.get_hash("app", "notes", digest("k")) is not None
    ledger.commit(ledger.craft([private(hashed_write("k", **fields))]))
    assert ledger.state.get_hash("app", "notes", digest("k")) is None


def test_a_purge_is_told_even_if_the_block_writes_the_key_again(ledger: ScratchLedger) -> None:
    purge = ledger.craft([private(hashed_write("k", is_delete=True, is_purge=True))])
    again = ledger.craft([private(hashed_write("k", value_hash=digest("value")))])
    (update,) = ledger.validate(purge, again).updates.hashed
    assert (update.value_hash, update.version, update.purged_at) == (digest("value"), Version(1, 1), Version(1, 0))
    (update,) = ledger.validate(again).updates.hashed
    assert update.purged_at is None


def test_private_keys_expire_after_their_blocks_to_live(ledger: ScratchLedger) -> None:
    ledger.define("app", collections={"notes": b""}, block_to_live=2)
    validation = ledger.commit(ledger.craft([private(hashed_write("k", value_hash=digest("1")))]))
    assert validation.updates.hashed[0].expires == 4
    held = []
    while ledger.height < 6:
        held.append(ledger.state.get_hash("app", "notes", digest("k")) is not None)
        ledger.commit(ledger.craft())
    assert held == [True, True, True, False]


def test_in_the_block_that_removes_it_a_private_key_can_still_be_read(ledger: ScratchLedger) -> None:
    ledger.define("app", collections={"notes": b""}, block_to_live=1)
    ledger.commit(ledger.craft([private(hashed_write("k", value_hash=digest("1")))]))
    ledger.commit(ledger.craft())
    collection = CollectionReadWriteSet(
        collection="notes", reads=(HashedRead(key_hash=digest("k"), version=Version(1, 0)),)
    )
    read = ledger.craft([NamespaceReadWriteSet(namespace="app", collections=(collection,))])
    assert ledger.code(read) == "VALID"
    ledger.commit(ledger.craft())
    assert ledger.code(read) == "MVCC_READ_CONFLICT"


def test_writing_a_private_key_anew_lets_it_live_longer(ledger: ScratchLedger) -> None:
    ledger.define("app", collections={"notes": b""}, block_to_live=1)
    ledger.commit(ledger.craft([private(hashed_write("k", value_hash=digest("1")))]))
    ledger.commit(ledger.craft([private(hashed_write("k", value_hash=digest("2")))]))
    ledger.commit(ledger.craft())
    assert ledger.state.get_hash("app", "notes", digest("k")) is not None
    ledger.commit(ledger.craft([private(hashed_write("k", value_hash=digest("3")))]))
    assert ledger.state.get_hash("app", "notes", digest("k")) is not None


def test_implicit_collections_keep_their_keys(ledger: ScratchLedger) -> None:
    collection = CollectionReadWriteSet(
        collection="_implicit_org_beta", writes=(hashed_write("k", value_hash=digest("1")),)
    )
    envelope = ledger.craft(
        [NamespaceReadWriteSet(namespace="_lifecycle", collections=(collection,))],
        chaincode="_lifecycle",
        endorsers=["beta"],
    )
    (update,) = ledger.commit(envelope).updates.hashed
    assert update.expires is None


def test_invalid_transactions_change_nothing(ledger: ScratchLedger) -> None:
    validation = ledger.commit(ledger.craft([writes("app", key=b"value")], endorsers=["alpha"]))
    assert validation.updates == StateUpdates(number=1)
    assert ledger.state.get("app", "key") is None


def test_the_same_transactions_give_another_commit_hash_when_anything_before_differs(ledger: ScratchLedger) -> None:
    envelope = ledger.craft([writes("app", key=b"value")])
    validation = ledger.validate(envelope)
    hashes = {
        validation.commit_hash(b""),
        validation.commit_hash(b"x" * 32),
        ledger.validate(ledger.craft([writes("app", key=b"other")])).commit_hash(b""),
        ledger.validate(ledger.craft(endorsers=MAJORITY[:1])).commit_hash(b""),
    }
    assert len(hashes) == 4


def test_block_0_puts_the_configuration_into_the_state_and_has_no_commit_hash() -> None:
    validation = validate_block(genesis(), genesis_config(), MemoryState())
    (update,) = validation.updates.public
    assert (update.namespace, update.key, update.version) == (CONFIG_NAMESPACE, CONFIG_KEY, Version(0, 0))
    assert validation.updates.encoded == b""
    assert validation.commit_hash(b"") == b""
    assert validation.config is not None
    assert validation.config.channel_id == "scratch"
    assert validation.codes == (0,)


def test_memory_state_ranges_follow_the_order_of_utf_8_bytes() -> None:
    keys = ["", "a", "a\0", "ab", "b", "é", "\uffff", "\U0001f600"]
    state = MemoryState()
    for key in reversed(keys):
        state.apply(StateUpdates(number=0, public=(PublicUpdate(namespace="n", key=key, value=b"v", version=OLD),)), ())
    assert [key for key, _ in state.range("n", "", "")] == sorted(keys, key=str.encode) == keys
    assert [key for key, _ in state.range("n", "a", "b")] == ["a", "a\0", "ab"]
    assert [key for key, _ in state.range("n", "b", "a")] == []
    assert [key for key, _ in state.range("elsewhere", "", "")] == []
    state.apply(StateUpdates(number=1, public=(PublicUpdate(namespace="n", key="ab", value=None, version=NEW),)), ())
    assert [key for key, _ in state.range("n", "a", "b")] == ["a", "a\0"]
    assert state.get("n", "a") == StateValue(value=b"v", version=OLD)


def test_memory_state_knows_the_transactions_that_were_applied() -> None:
    state = MemoryState()
    state.apply(StateUpdates(number=1), ["one", None])
    assert state.has_transaction("one")
    assert not state.has_transaction("two")


def test_a_definition_with_a_policy_of_its_own_is_used(ledger: ScratchLedger) -> None:
    ledger.define("mine", policy=own_policy(1, "delta"))
    assert ledger.code(ledger.craft([writes("mine", k=b"v")], chaincode="mine", endorsers=["delta"])) == "VALID"
