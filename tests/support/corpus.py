"""The corpus: what a real peer said of each case, and the same asked of our validation.

`make corpus` records it anew with a real peer, `make parity` replays it and writes build/parity/summary.json.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

from blockfl.fabric.channel.block import build_block, verify_data
from blockfl.fabric.errors import FabricError
from blockfl.fabric.transaction.code import code_name
from blockfl.fabric.validate import SignatureCache, validate_block
from support import corpus_blocks, corpus_cases, corpus_configurations, corpus_updates
from support.corpus_blocks import encode_block_case, judge_block
from support.corpus_cases import make_case, set_up
from support.corpus_configurations import judge_configuration, make_configuration
from support.corpus_updates import judge_update, make_update_case
from support.corpus_world import corpus_config, corpus_genesis
from support.go_comparison import MAKERS, SLOW, count_differences
from support.scratch_ledger import ScratchLedger

DIRECTORY: Final = Path(__file__).parents[1] / "recordings" / "corpus"
SUMMARY: Final = Path("build/parity/summary.json")
STOPPED: Final = 253
"""In place of a code: the peer did not survive the case, or never answered."""
REFUSED: Final = 252
"""In place of a code: the whole block, or the configuration, is refused."""
TAKEN: Final = 0
KNOWN: Final[Mapping[tuple[str, int], str]] = {
    ("update", 698): "channels without application capabilities are refused here; most organisations must want one",
}
"""Cases that are judged otherwise here, and why: no minority can bring them onto a ledger."""
_SELDOM: Final = 25
"""Of inputs that take long to make or to judge only one in so many is compared with Go."""
_DIGEST_BYTES: Final = 4
_ENTRY_BYTES: Final = 1 + _DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a peer said of a case, and by what its bytes are known again."""

    kind: str
    number: int
    code: int
    digest: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A case of which we say something else than the peer."""

    kind: str
    number: int
    recorded: int
    found: int

    def __str__(self) -> str:
        recorded, found = describe(self.recorded, self.kind), describe(self.found, self.kind)
        return f"{self.kind} {self.number}: the peer says {recorded}, we say {found}"


def describe(code: int, kind: str = "") -> str:
    if kind in corpus_configurations.COUNTS and code != REFUSED and code != STOPPED:
        return f"taken, with answers {code:07b}"
    if kind in (*corpus_blocks.COUNTS, "update") and code == TAKEN:
        return "taken"
    return {REFUSED: "refused", STOPPED: "nothing any more"}.get(code) or code_name(code)


def digest_of(case: bytes) -> bytes:
    """By what a case's bytes are known again."""
    return hashlib.sha256(case).digest()[:_DIGEST_BYTES]


def all_counts() -> dict[str, int]:
    """How many cases there are of each kind, in the order of the recording."""
    return corpus_cases.COUNTS | corpus_configurations.COUNTS | corpus_blocks.COUNTS | corpus_updates.COUNTS


def make(kind: str, number: int) -> bytes:
    """A case's bytes: a transaction, the first block of a channel, another block, or an update."""
    return _family(kind)[0](kind, number)


def judge_case(kind: str, case: bytes) -> int:
    """The code that we give to a case."""
    return _family(kind)[1](case)


def _family(kind: str) -> tuple[Callable[[str, int], bytes], Callable[[bytes], int]]:
    if kind in corpus_configurations.COUNTS:
        return make_configuration, judge_configuration
    if kind in corpus_blocks.COUNTS:
        return encode_block_case, judge_block
    if kind in corpus_updates.COUNTS:
        return make_update_case, partial(judge_update, kind)
    return make_case, judge


def write_verdicts(verdicts: list[Verdict], fabric: str) -> None:
    """Write a recording."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    packed = b"".join(bytes((one.code,)) + one.digest for one in verdicts)
    (DIRECTORY / "verdicts.bin.gz").write_bytes(gzip.compress(packed, 9, mtime=0))
    counted = {kind: sum(1 for one in verdicts if one.kind == kind) for kind in all_counts()}
    codes = Counter(describe(one.code, one.kind) for one in verdicts)
    about = {"fabric": fabric, "cases": counted, "codes": dict(sorted(codes.items()))}
    (DIRECTORY / "about.json").write_text(json.dumps(about, indent=1) + "\n")


@cache
def recorded_verdicts() -> tuple[Verdict, ...]:
    """The recording, case by case."""
    packed = gzip.decompress((DIRECTORY / "verdicts.bin.gz").read_bytes())
    counted: dict[str, int] = json.loads((DIRECTORY / "about.json").read_text())["cases"]
    places = [(kind, number) for kind, count in counted.items() for number in range(count)]
    entries = [packed[at : at + _ENTRY_BYTES] for at in range(0, len(packed), _ENTRY_BYTES)]
    return tuple(
        Verdict(kind, number, entry[0], entry[1:]) for (kind, number), entry in zip(places, entries, strict=True)
    )


@cache
def base_ledger() -> ScratchLedger:
    """The ledger on which every case is judged, each for itself."""
    ledger = ScratchLedger(corpus_config())
    genesis = validate_block(corpus_genesis(), corpus_config(), ledger.state)
    ledger.state.apply(genesis.updates, genesis.tx_ids)
    for envelope in set_up():
        assert ledger.commit(envelope).codes == (TAKEN,)
    return ledger


_SIGNATURES: Final = SignatureCache()


def judge(envelope: bytes) -> int:
    """The code that we give to a transaction."""
    ledger = base_ledger()
    try:
        block: Any = build_block(ledger.height, b"", [envelope])
        verify_data(block)
        (code,) = validate_block(block, ledger.config, ledger.state, signatures=_SIGNATURES).codes
    except FabricError:
        return REFUSED
    return code


def replay(kinds: Collection[str] | None = None, every: int = 1) -> Iterator[Difference | None]:
    """Judge the recorded cases of these kinds, or every so many of them.

    Yields:
        For each: None, or that we judge it otherwise and are not known to.
    """
    for verdict in [one for one in recorded_verdicts() if kinds is None or one.kind in kinds][::every]:
        case = make(verdict.kind, verdict.number)
        assert digest_of(case) == verdict.digest, "the cases are others than those recorded: make corpus"
        found = verdict.code if verdict.code == STOPPED else judge_case(verdict.kind, case)
        is_known = (verdict.kind, verdict.number) in KNOWN
        assert not is_known or found != verdict.code, "a known difference is none any more: take it from the list"
        yield (
            None
            if found == verdict.code or is_known
            else Difference(kind=verdict.kind, number=verdict.number, recorded=verdict.code, found=found)
        )


def main() -> None:
    """Replay the recording; write what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=0, help="how many inputs of each kind to compare with Go")
    inputs: int = parser.parse_args().inputs
    answers = list(replay())
    cases, differences = len(answers), [one for one in answers if one is not None]
    for difference in differences:
        print(difference)
    summary: dict[str, int] = {"cases": cases, "differences": len(differences)}
    if inputs:
        for kind in MAKERS:
            count = inputs // _SELDOM if kind in SLOW else inputs
            found = count_differences(kind, count, seed=secrets.randbits(64))
            print(f"{kind}: {count} inputs, {found} differences with Go", flush=True)
            summary = {"cases": summary["cases"] + count, "differences": summary["differences"] + found}
    SUMMARY.parent.mkdir(parents=True, exist_ok=True)
    SUMMARY.write_text(json.dumps(summary) + "\n")
    print(f"{summary['cases']} cases, {summary['differences']} differences ({SUMMARY})")
    if summary["differences"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
