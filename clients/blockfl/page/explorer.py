"""A block and a transaction taken apart, down to what was read and written, in words.

What a record held before and after is shown field by field; hashes of private values are named where the records say
what must stand there. Everything was verified before: this module only reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from fabric_protos.common import policies_pb2
from fabric_protos.msp import msp_principal_pb2
from google.protobuf.message import DecodeError

from blockfl.audit.book import Book
from blockfl.audit.entry import Entry, format_time, read_msp_id
from blockfl.audit.errors import VerificationError
from blockfl.audit.log import Position
from blockfl.fabric.channel.difference import describe_difference
from blockfl.fabric.encoding.protobuf import parse
from blockfl.fabric.errors import FabricError
from blockfl.fabric.identity.signing import Identity
from blockfl.fabric.transaction.envelope import Transaction
from blockfl.fabric.transaction.reading import decode_transaction
from blockfl.fabric.transaction.rwset import (
    VALIDATION_PARAMETER,
    CollectionReadWriteSet,
    NamespaceReadWriteSet,
    RangeQuery,
    Version,
    Write,
    decode_read_write_set,
    hash_key,
)
from blockfl.page.words import describe_key, describe_sentence
from blockfl.protocol.catalogue import HEADERS, MODELS, TASKS, model_chunk_key, sealed_chunk_key
from blockfl.protocol.records import Blob

_SHOWN_CHARACTERS: Final = 400
_SHOWN_READS: Final = 200


@dataclass(frozen=True, kw_only=True)
class ReadLine:
    """One key, or range of keys, that the contract read.

    Attributes:
        key: The key, or the range's first.
        words: What stands there.
        found: Which write was found, or that there was none.
        block: The number of the block with that write; None when there is none.
        is_own: Whether the key is one of the audited contract's, so that its history can be shown.
    """

    key: str
    words: str
    found: str
    block: int | None = None
    is_own: bool = False


@dataclass(frozen=True, kw_only=True)
class WriteLine:
    """One key that was written.

    Attributes:
        key: The key.
        words: What stands there.
        effect: "new", "changed", "deleted" or "written".
        fields: Name, value before ("" if there was none) and value after, of every field that changed.
        size_bytes: Of the value.
        is_own: As of `ReadLine`.
    """

    key: str
    words: str
    effect: str
    fields: tuple[tuple[str, str, str], ...] = ()
    size_bytes: int = 0
    is_own: bool = False


@dataclass(frozen=True, kw_only=True)
class PrivateLine:
    """One private key that was read or written: the ledger has its hash only.

    Attributes:
        collection: The collection's name.
        words: What it must be, where the public records tell; else the key's hash.
        effect: "read", "written", "deleted" or "purged".
        value_hash: SHA-256 of the new value, hex; "" when nothing was written.
    """

    collection: str
    words: str
    effect: str
    value_hash: str = ""


@dataclass(frozen=True, kw_only=True)
class NamespaceView:
    """What was read and written in one namespace."""

    name: str
    reads: tuple[ReadLine, ...] = ()
    omitted_reads: int = 0
    writes: tuple[WriteLine, ...] = ()
    policies: tuple[tuple[str, str], ...] = ()
    private: tuple[PrivateLine, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TransactionView:
    """A transaction as its page shows it.

    Attributes:
        entry: What the chain says of it.
        sentence: What it did.
        time: Its own word on the time, ISO 8601.
        sender: Subject of the certificate that sent it.
        chaincode: Name and version of what was called; "" for a configuration.
        arguments: Of the call, after the function's name.
        status: The contract's answer: status, and message.
        endorsers: Organisation and certificate subject of each endorser.
        namespaces: What was read and written.
        changes: What a configuration changes.
        problem: Why it cannot be taken apart; "" when it can.
    """

    entry: Entry
    sentence: str
    time: str | None
    sender: str = ""
    chaincode: str = ""
    arguments: tuple[str, ...] = ()
    status: str = ""
    endorsers: tuple[tuple[str, str], ...] = ()
    namespaces: tuple[NamespaceView, ...] = ()
    changes: tuple[str, ...] = ()
    problem: str = ""


def view_transaction(book: Book, block: Any, entry: Entry) -> TransactionView:
    """Take a transaction apart.

    Args:
        book: The verified ledger.
        block: The transaction's block (common.Block).
        entry: What the ledger says of it.
    """
    sentence, time = describe_sentence(entry), format_time(entry.stated_at_ms)
    try:
        transaction = decode_transaction(block.data.data[entry.index])
        namespaces = tuple(_view_namespaces(book, transaction, entry))
    except FabricError as error:
        return TransactionView(entry=entry, sentence=sentence, time=time, problem=str(error))
    status = f"{transaction.response_status} {transaction.response_message}".strip()
    return TransactionView(
        entry=entry,
        sentence=sentence,
        time=time,
        sender=_read_subject(transaction.creator),
        chaincode=f"{transaction.chaincode} {transaction.chaincode_version}".strip(),
        arguments=tuple(show_bytes(one) for one in transaction.args[1:]),
        status=status if transaction.response_status else "",
        endorsers=tuple((read_msp_id(one.endorser), _read_subject(one.endorser)) for one in transaction.endorsements),
        namespaces=namespaces,
        changes=_list_changes(book, entry),
    )


def show_bytes(value: bytes) -> str:
    """Return an argument or value for people: text where it is text, else its size; never more than a few lines."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return f"{len(value)} bytes, {value[:16].hex()}…"
    return _cut(text)


def _view_namespaces(book: Book, transaction: Transaction, entry: Entry) -> Iterator[NamespaceView]:
    if not transaction.results:
        return
    names = _PrivateNames(book, entry)
    own = book.chain.namespace
    # The contract's own first: what the peer looked up of its definition says little.
    for one in sorted(decode_read_write_set(transaction.results).namespaces, key=lambda one: one.namespace != own):
        is_own = one.namespace == own
        yield NamespaceView(
            name=one.namespace,
            reads=tuple(_list_reads(one, is_own=is_own)),
            omitted_reads=max(0, len(one.reads) - _SHOWN_READS),
            writes=tuple(_view_write(book, write, (entry.block, entry.index), is_own=is_own) for write in one.writes),
            policies=tuple(
                (describe_key(write.key) if is_own else write.key, _describe_entries(write.entries))
                for write in one.metadata_writes
            ),
            private=tuple(line for collection in one.collections for line in _list_private(collection, names)),
        )


def _list_reads(namespace: NamespaceReadWriteSet, *, is_own: bool) -> Iterator[ReadLine]:
    for read in namespace.reads[:_SHOWN_READS]:
        words = describe_key(read.key) if is_own else read.key
        yield ReadLine(
            key=read.key,
            words=words,
            found=_describe_version(read.version),
            block=_block_of(read.version),
            is_own=is_own,
        )
    for query in namespace.range_queries:
        yield ReadLine(
            key=query.start_key,
            words=f"every key from {query.start_key!r} to {query.end_key!r}",
            found=_describe_range(query),
        )


def _describe_range(query: RangeQuery) -> str:
    if query.reads is not None:
        return f"{len(query.reads)} found"
    return "found as a summary says" if query.summary else "none found"


def _describe_version(version: Version | None) -> str:
    return "there was none" if version is None else f"as written by block {version.block}, transaction {version.tx}"


def _block_of(version: Version | None) -> int | None:
    return None if version is None else version.block


def _view_write(book: Book, write: Write, position: Position, *, is_own: bool) -> WriteLine:
    words = describe_key(write.key) if is_own else write.key
    if write.deletes:
        return WriteLine(key=write.key, words=words, effect="deleted", is_own=is_own)
    before = b""
    if is_own:
        earlier = [one for one in book.history.list_writes(write.key) if one.position < position]
        before = earlier[-1].value if earlier else b""
    effect = ("changed" if before else "new") if is_own else "written"
    return WriteLine(
        key=write.key,
        words=words,
        effect=effect,
        fields=tuple(compare_values(before, write.value)) if is_own else (("value", "", show_bytes(write.value)),),
        size_bytes=len(write.value),
        is_own=is_own,
    )


def compare_values(before: bytes, after: bytes) -> Iterator[tuple[str, str, str]]:
    """Yield name, value before and value after of every field in which two records (JSON objects) differ."""
    old, new = _read_fields(before), _read_fields(after)
    for name in dict.fromkeys([*new, *old]):
        if old.get(name) != new.get(name):
            yield name, _show(old.get(name)), _show(new.get(name))


def _read_fields(value: bytes) -> dict[str, Any]:
    if not value:
        return {}
    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        return {"value": show_bytes(value)}
    return fields if isinstance(fields, dict) else {"value": fields}


def _show(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return _cut(value)
    if isinstance(value, list) and all(isinstance(one, str | int) for one in value):
        return _cut(", ".join(map(str, value)) or "none")
    return _cut(json.dumps(value, ensure_ascii=False, sort_keys=True))


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"


def _list_private(collection: CollectionReadWriteSet, names: _PrivateNames) -> Iterator[PrivateLine]:
    for read in collection.reads:
        words = names.describe(collection.collection, read.key_hash)
        yield PrivateLine(collection=collection.collection, words=words, effect="read")
    for write in collection.writes:
        effect = "purged" if write.is_purge else "deleted" if write.deletes else "written"
        words = names.describe(collection.collection, write.key_hash)
        value_hash = "" if write.deletes else write.value_hash.hex()
        yield PrivateLine(collection=collection.collection, words=words, effect=effect, value_hash=value_hash)


class _PrivateNames:
    """Which private keys the public records of a transaction's round and task tell, by their hash."""

    def __init__(self, book: Book, entry: Entry) -> None:
        self._known: dict[bytes, str] = {}
        if entry.notice is None or not entry.notice.task:
            return
        task, number = entry.notice.task, entry.notice.round
        try:
            blobs = [one.spec.initial_model for one in book.history.read_all(TASKS.below()) if one.spec.task == task]
            blobs += [one.sum for one in book.history.read_all(MODELS.below(task)) if one.sum is not None]
            headers = [one.header for one in book.history.read_all(HEADERS.below(task, number))]
        except VerificationError:
            return
        for blob in blobs:
            self._add_blob(task, blob)
        for header in headers:
            for index in range(len(header.chunk_digests)):
                self._known[hash_key(sealed_chunk_key(task, number, header.organisation, index))] = (
                    f"piece {index} of the sealed update of {header.organisation} in round {number} of {task}"
                )

    def _add_blob(self, task: str, blob: Blob) -> None:
        for index, digest in enumerate(blob.chunks):
            words = f"piece {index} of the model or sum {blob.digest[:16]}… of {task}"
            self._known[hash_key(model_chunk_key(task, digest))] = words

    def describe(self, collection: str, key_hash: bytes) -> str:
        """Return what a key is; its hash where nobody knows."""
        return self._known.get(key_hash) or f"a key of {collection} whose SHA-256 is {key_hash.hex()}"


def _describe_entries(entries: Sequence[tuple[str, bytes]]) -> str:
    """Return what the metadata of a key says: its own endorsement policy, in words."""
    if not entries:
        return "as the contract's own policy says"
    return "; ".join(
        describe_policy(value) if name == VALIDATION_PARAMETER else f"{name}, {len(value)} bytes"
        for name, value in entries
    )


def describe_policy(encoded: bytes) -> str:
    """Return an endorsement policy of the form "n of these" in words; another one as its size."""
    try:
        policy = parse(policies_pb2.SignaturePolicyEnvelope, encoded)
        roles = [parse(msp_principal_pb2.MSPRole, one.principal) for one in policy.identities]
    except DecodeError:
        return f"a policy of {len(encoded)} bytes that cannot be read"
    parts = policy.rule.n_out_of.rules
    if not parts or any(one.WhichOneof("Type") != "signed_by" or one.signed_by >= len(roles) for one in parts):
        return f"a rule of {len(encoded)} bytes"
    return f"{policy.rule.n_out_of.n} of {', '.join(roles[one.signed_by].msp_identifier for one in parts)}"


def _list_changes(book: Book, entry: Entry) -> tuple[str, ...]:
    """Say what a configuration changed."""
    if entry.kind != "configuration" or not entry.is_valid:
        return ()
    configurations = book.chain.configurations
    at = next((index for index, (number, _) in enumerate(configurations) if number == entry.block), None)
    if at is None:
        return ()
    if at == 0:
        config = configurations[0][1]
        return (f"organisations: {', '.join(sorted(config.msps))}", f"consensus: {config.consensus_type}")
    try:
        return describe_difference(configurations[at - 1][1], configurations[at][1])
    except FabricError as error:
        return (str(error),)


def _read_subject(serialized: bytes) -> str:
    """Return the subject of a serialised identity's certificate; "" when it cannot be read."""
    if not serialized:
        return ""
    try:
        return Identity.parse(serialized).certificate.subject.rfc4514_string()
    except (FabricError, ValueError):
        return ""
