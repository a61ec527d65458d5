"""Range queries by the letter: read everything, sort it, compare; Merkle summaries level by level from whole lists."""

from collections.abc import Mapping, Sequence
from hashlib import sha256

from fabric_protos.ledger.rwset.kvrwset import kv_rwset_pb2

from blockfl.fabric.transaction.rwset import MerkleSummary, RangeQuery, Read, Version


def read_range_naively(
    before: Mapping[str, Version], changes: Mapping[str, Version | None], start: str, end: str, *, exhausted: bool
) -> list[tuple[str, Version]]:
    """What a range holds now; a reader that stopped early has seen the end key, too."""
    now = {key: version for key, version in {**before, **changes}.items() if version is not None}
    found = [key for key in sorted(now) if key >= start and (end == "" or key < end)]
    if not exhausted and end in now:
        found.append(end)
    return [(key, now[key]) for key in found]


def holds_naively(before: Mapping[str, Version], changes: Mapping[str, Version | None], query: RangeQuery) -> bool:
    """Whether a range still holds what was read."""
    found = read_range_naively(before, changes, query.start_key, query.end_key, exhausted=query.exhausted)
    if query.summary is not None:
        return summarise_naively(found, query.summary.max_degree) == query.summary
    return [Read(key=key, version=version) for key, version in found] == list(query.reads or ())


def summarise_naively(reads: Sequence[tuple[str, Version]], max_degree: int) -> MerkleSummary | None:
    """The Merkle summary, each level made from the whole level below in groups of max_degree + 1."""
    if len(reads) <= max_degree:
        return None
    size = max_degree + 1
    level = [_hash_reads(reads[start : start + size]) for start in range(0, len(reads), size)]
    number = 1
    while len(level) > max_degree:
        groups = [level[start : start + size] for start in range(0, len(level), size)]
        level = [group[0] if len(group) == 1 else sha256(b"".join(group)).digest() for group in groups]
        number += 1
    return MerkleSummary(max_degree=max_degree, max_level=number, hashes=tuple(level))


def _hash_reads(reads: Sequence[tuple[str, Version]]) -> bytes:
    message = kv_rwset_pb2.QueryReads(
        kv_reads=[
            kv_rwset_pb2.KVRead(key=key, version=kv_rwset_pb2.Version(block_num=version.block, tx_num=version.tx))
            for key, version in reads
        ]
    )
    return sha256(message.SerializeToString()).digest()
