"""The whole proof: the chain, then every task's records, then every model."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from blockfl.audit.bundle import Bundle, BundleChain, BundleManifest
from blockfl.audit.chain import ChainProof, pinned_hash
from blockfl.audit.credits import verify_settlements, verify_supply
from blockfl.audit.entry import LIFECYCLE
from blockfl.audit.errors import DisputedError, Step, VerificationError, in_step
from blockfl.audit.finding import Finding, list_agreeing, summarise_record
from blockfl.audit.history import History
from blockfl.audit.records import TaskProof, verify_models, verify_task
from blockfl.fabric.channel.block_reading import BlockReading
from blockfl.fabric.channel.config import describe_consensus
from blockfl.fabric.identity.signing import Signer
from blockfl.fabric.validate.ahead import look_ahead, look_ahead_async
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.transfer import ModelChunks
from blockfl.protocol.catalogue import CONSORTIUM, SETTLEMENTS, TASK, TASKS
from blockfl.protocol.task import Task

Progress = Callable[[str], None]
_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class VerificationReport:
    """What was verified: numbers of blocks and transactions, validity codes, tasks, and the last block's hash.

    ``endorsements`` counts, for each of the contract's transactions, of how many valid ones an organisation's peer has
    signed the result: an organisation that is away does not appear. ``silent`` are the members of the present committee
    that endorsed none of the last verdicts, up to 20: away, refusing, late every time, or not asked.
    """

    blocks: int
    transactions: int
    codes: dict[str, int]
    ledger_bytes: int
    function_bytes: dict[str, int]
    endorsements: dict[str, dict[str, int]]
    silent: tuple[str, ...]
    genesis_hash: str
    last_block_hash: str
    tasks: tuple[TaskProof, ...]
    steps: tuple[str, ...]
    findings: tuple[Finding, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Return the report for machines."""
        return {"verified": True, **asdict(self)}


async def verify_ledger(
    ledger: Ledger,
    genesis_hash: bytes,
    progress: Progress,
    *,
    until: int | None = None,
    expected_hash: str | None = None,
) -> VerificationReport:
    """Verify a peer's ledger up to its present height.

    Args:
        ledger: An identity of any organisation.
        genesis_hash: Header hash of the first block, from where the auditor trusts it.
        progress: Told what is being verified.
        until: Number of the last block to look at; by default the last one that the peer has.
        expected_hash: Header hash, as hex, that this last block must have.

    Raises:
        VerificationError: Something is not as it must be.
        LedgerError: The ledger cannot be read.
    """
    chain = await read_chain(ledger, genesis_hash, progress, until=until, expected_hash=expected_hash)
    return await _verify_content(ledger, chain, progress)


async def read_chain(
    ledger: Ledger,
    genesis_hash: bytes,
    progress: Progress,
    *,
    until: int | None = None,
    expected_hash: str | None = None,
) -> ChainProof:
    """Verify a peer's chain; arguments and errors as of `verify_ledger`."""
    chain = ChainProof(genesis_hash=genesis_hash, namespace=ledger.profile.contract)
    height = _limit_height(await ledger.gateway.height(), until, "the peer's ledger")
    async with (
        aclosing(ledger.gateway.blocks(0)) as stream,
        aclosing(_first(stream, height)) as first,
        aclosing(look_ahead_async(first, chain.signatures, chain.list_nodes)) as blocks,
    ):
        async for reading in blocks:
            await add_block(chain, reading, ledger.signer, progress)
            _tell(chain, height, progress)
    with in_step("chain"):
        _check_end(chain, expected_hash, "the peer's ledger")
    return chain


async def _first(blocks: AsyncIterator[Any], count: int) -> AsyncGenerator[Any]:
    """Yield so many blocks of a stream that does not end."""
    async for block in blocks:
        yield block
        count -= 1
        if not count:
            return


def _limit_height(height: int, until: int | None, what: str) -> int:
    if until is not None and until >= height:
        raise VerificationError(f"{what} ends with block {height - 1}, before block {until}")
    return height if until is None else until + 1


def _check_end(chain: ChainProof, expected_hash: str | None, what: str) -> None:
    if expected_hash is not None and chain.last_hash.hex() != expected_hash:
        raise VerificationError(
            f"expected a block with the hash {expected_hash}, got {chain.last_hash.hex()}: {what} was cut off, or "
            "tells of another chain",
            chain.blocks - 1,
        )


async def verify_bundles(
    paths: Sequence[Path],
    genesis_hash: bytes,
    progress: Progress,
    *,
    until: int | None = None,
    expected_hash: str | None = None,
    witnesses: Mapping[str, Path] = MappingProxyType({}),
) -> VerificationReport:
    """Verify evidence without a network: the same proof as of a running ledger.

    Args:
        paths: A bundle, and those that it continues, in any order.
        genesis_hash: The pinned header hash of block 0.
        progress: Told what is being verified.
        until: Number of the last block to look at; by default the last one that is there.
        expected_hash: Header hash, as hex, that this last block must have; without it nobody sees a chain cut short.
        witnesses: By MSP id, an organisation's own bundle: what its peer has on record, where that is disputed.

    Raises:
        VerificationError: Something is not as it must be.
        LedgerError: A file cannot be read.
    """
    with open_evidence(paths, until=until, witnesses=witnesses) as opened:
        chain = verify_chain(opened, genesis_hash, progress, expected_hash=expected_hash)
        return await verify_opened(opened, chain, progress)


@dataclass(frozen=True, kw_only=True)
class OpenedEvidence:
    """Bundles that are open.

    Attributes:
        evidence: They, read as one.
        height: How many of its blocks count.
        witnesses: By MSP id, an organisation's own bundle.
        files: How many bundles there are.
    """

    files: int
    evidence: BundleChain
    height: int
    witnesses: Mapping[str, Bundle]


async def verify_opened(opened: OpenedEvidence, chain: ChainProof, progress: Progress) -> VerificationReport:
    """Verify the records and models behind a chain that `verify_chain` verified; errors as of `verify_bundles`."""
    return await _verify_content(opened.evidence, chain, progress, opened.files)


@contextmanager
def open_evidence(
    paths: Sequence[Path], *, until: int | None = None, witnesses: Mapping[str, Path] = MappingProxyType({})
) -> Iterator[OpenedEvidence]:
    """Open bundles and check every byte against their manifests; arguments and errors as of `verify_bundles`."""
    with ExitStack() as opened:
        with in_step("files"):
            evidence = BundleChain([opened.enter_context(Bundle.open(path)) for path in paths])
            height = _limit_height(evidence.height, until, "the evidence")
            heard = {msp_id: opened.enter_context(Bundle.open(path)) for msp_id, path in witnesses.items()}
        yield OpenedEvidence(files=len(paths), evidence=evidence, height=height, witnesses=heard)


def verify_chain(
    opened: OpenedEvidence, genesis_hash: bytes, progress: Progress, *, expected_hash: str | None = None
) -> ChainProof:
    """Verify the chain that bundles hold; arguments and errors as of `verify_bundles`."""
    chain = ChainProof(genesis_hash=genesis_hash, namespace=opened.evidence.manifest.contract)
    with (
        in_step("chain"),
        closing(look_ahead(_read(opened), chain.signatures, chain.list_nodes)) as readings,
    ):
        for reading in readings:
            _add_recorded(chain, reading, opened.witnesses, progress)
            _tell(chain, opened.height, progress)
        _check_end(chain, expected_hash, "the evidence")
    if opened.height == opened.evidence.height:
        check_subject(chain, opened.evidence.manifest)
    return chain


def check_subject(chain: ChainProof, manifest: BundleManifest) -> None:
    """Check that evidence is about the channel and a contract of its whole chain: a manifest is nobody's signed word.

    Raises:
        VerificationError: It is about something else.
    """
    with in_step("files"):
        channel = chain.config.channel_id if chain.config else ""
        if manifest.channel != channel:
            raise VerificationError(
                f"the manifest names the channel {manifest.channel!r:.100}, the chain is of {channel}"
            )
        if chain.state.get(LIFECYCLE, f"namespaces/metadata/{manifest.contract}") is None:
            raise VerificationError(
                f"the manifest names the contract {manifest.contract!r:.100}, of which no definition came into force"
            )


def read_anchor(genesis: Path) -> bytes:
    """Return the header hash of the first block in a file.

    Raises:
        LedgerError: It cannot be read, or is no block.
    """
    try:
        return pinned_hash(genesis.read_bytes())
    except OSError as error:
        raise LedgerError(f"{genesis}: your copy of the first block cannot be read ({error.strerror})") from error


async def add_block(chain: ChainProof, block: Any, signer: Signer, progress: Progress) -> None:
    """Verify the next block; where its record is disputed, go by what the peers of most organisations hold.

    Raises:
        VerificationError: It is not as it must be, or too few peers hold the disputed record.
    """
    reading = BlockReading.of(block)
    try:
        chain.add(reading)
    except DisputedError:
        assert chain.config is not None
        before = len(chain.findings)
        chain.add(reading, await list_agreeing(chain.config, signer, reading.block))
        for finding in chain.findings[before:]:
            progress(f"finding: {finding}")


def _read(opened: OpenedEvidence) -> Iterator[Any]:
    return islice(opened.evidence.blocks(), opened.height)


def _add_recorded(chain: ChainProof, reading: BlockReading, heard: Mapping[str, Bundle], progress: Progress) -> None:
    """Verify the next block of a bundle; where its record is disputed, go by most organisations' own bundles."""
    try:
        chain.add(reading)
    except DisputedError:
        copies = {msp_id: bundle.block(reading.block.header.number) for msp_id, bundle in heard.items()}
        wanted, before = summarise_record(reading.block), len(chain.findings)
        agreed = [msp_id for msp_id, copy in copies.items() if copy is not None and summarise_record(copy) == wanted]
        chain.add(reading, agreed)
        for finding in chain.findings[before:]:
            progress(f"finding: {finding}")


def _tell(chain: ChainProof, height: int, progress: Progress) -> None:
    if chain.blocks % _EVERY == 0 or chain.blocks == height:
        progress(f"verified block {chain.blocks - 1} of {height - 1}")


async def _verify_content(
    source: ModelChunks, chain: ChainProof, progress: Progress, bundles: int = 0
) -> VerificationReport:
    """Verify the records and models of a verified chain, and say what all of it proves."""
    history = History(chain)
    proofs = await verify_records(source, history, progress)
    consortium = history.find(CONSORTIUM.key())
    silent = list_silent(consortium.committee if consortium else (), chain.judged)
    if silent:
        progress(f"committee: {', '.join(silent)} endorsed none of the last {len(chain.judged)} verdicts")
    return VerificationReport(
        blocks=chain.blocks,
        transactions=chain.transactions,
        codes=dict(chain.codes),
        ledger_bytes=chain.block_bytes,
        function_bytes=dict(chain.function_bytes),
        endorsements=_group(chain.endorsements),
        silent=silent,
        genesis_hash=chain.genesis_hash.hex(),
        last_block_hash=chain.last_hash.hex(),
        tasks=proofs,
        steps=tuple(f"{step}: {words}" for step, words in _list_steps(chain, history, proofs, bundles).items()),
        findings=tuple(chain.findings),
    )


def _list_steps(chain: ChainProof, history: History, proofs: Sequence[TaskProof], bundles: int) -> dict[Step, str]:
    """Say what was verified in each step, with figures."""
    versions, updates = sum(proof.versions for proof in proofs), sum(proof.updates for proof in proofs)
    rounds, accepted = sum(proof.rounds for proof in proofs), sum(proof.accepted for proof in proofs)
    settled = sum(len(history.list_keys(SETTLEMENTS.below(proof.task))) for proof in proofs)
    nodes = sorted({describe_consensus(config) for _, config in chain.configurations})
    return {
        "files": f"every byte of {_count(bundles, 'bundle')} is as its manifest says"
        if bundles
        else "none: a peer was asked",
        "first block": f"it is the pinned one, {chain.genesis_hash.hex()[:16]}…",
        "chain": f"{chain.blocks} blocks follow from one another, with the data that their headers name",
        "ordering nodes": f"each block is signed by enough of them ({'; '.join(nodes)})",
        "configuration": f"{_count(len(chain.configurations), 'configuration')}, each authorised by the one before",
        "endorsements": f"creators, endorsements and reads of {chain.transactions} transactions, by the rules in force",
        "codes": f"each transaction's validity is the recorded one, {_codes(chain)}",
        "state": f"the state that follows gives the commit hash of each of {chain.blocks - 1} blocks",
        "openings": f"{_count(rounds, 'round')} opened when they could, with what was on the ledger before",
        "headers": f"{_count(updates, 'update')} signed with the certificates enrolled then, for their rounds' terms",
        "verdicts": f"who is accepted ({accepted} updates), rejected, unjudged or absent follows from the verdicts",
        "versions": f"{_count(versions, 'version')} voted for by the committee and built one upon the other",
        "sums": f"{_describe_sums(history, proofs)}",
        "models": f"{_count(versions, 'version')} computed again, equal to the published digests",
        "settlements": f"{_count(settled, 'settlement')} computed again from public records",
        "credits": "all that are held were granted",
    }


def _describe_sums(history: History, proofs: Sequence[TaskProof]) -> str:
    tasks = [history.get(TASK.key(proof.task)).spec for proof in proofs]
    proven = sum(proof.versions - 1 for proof, spec in zip(proofs, tasks, strict=True) if spec.is_committed)
    taken = sum(proof.versions - 1 for proof, spec in zip(proofs, tasks, strict=True) if not spec.is_committed)
    word = f"; {taken} are the committee's word, in tasks that recompute" if taken else ""
    return f"{proven} are those of the accepted updates by their commitments{word}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _codes(chain: ChainProof) -> str:
    return f"but for {_count(len(chain.findings), 'finding')}" if chain.findings else "without exception"


async def verify_records(source: ModelChunks, history: History, progress: Progress) -> tuple[TaskProof, ...]:
    """Verify the records, models and credits of every task; what is wrong with one does not hide the others.

    Args:
        source: Where models and sums come from.
        history: The records of a verified chain.
        progress: Told what is being verified, and at once what is not as it must be.

    Raises:
        VerificationError: After all tasks, with everything that is not as it must be.
        LedgerError: A model or sum cannot be read.
    """
    proofs: list[TaskProof] = []
    faults: list[VerificationError] = []
    settlements = 0
    for key in history.list_keys(TASKS.below()):
        try:
            with history.about("openings", key):
                task = history.get(key)
                proofs.append(await _verify_task(source, history, task, progress))
                settlements += verify_settlements(history, task)
        except VerificationError as error:
            faults.append(error)
            progress(f"not as it must be: {error}")
    try:
        verify_supply(history)
    except VerificationError as error:
        faults.append(error)
    if faults:
        raise faults[0] if len(faults) == 1 else VerificationError("; ".join(map(str, faults)))
    if settlements:
        progress(f"credits: {settlements} settlements recomputed, nothing came from nowhere")
    return tuple(proofs)


async def _verify_task(source: ModelChunks, history: History, task: Task, progress: Progress) -> TaskProof:
    proof = verify_task(history, task)
    digest = await verify_models(source, history, task)
    if digest is None:
        progress(f"task {proof.task}: its initial model has not been uploaded, no round has opened")
    else:
        progress(f"task {proof.task}: {proof.versions} versions recomputed, the last is {digest[:16]}…")
    if proof.outvoted:
        progress(f"task {proof.task}: voted for another model: {', '.join(proof.outvoted)}")
    return proof


def list_silent(committee: Sequence[str], judged: Collection[frozenset[str]]) -> tuple[str, ...]:
    """Return the members that endorsed none of these verdicts, if there are any verdicts, ascending."""
    return tuple(sorted(set(committee).difference(*judged))) if judged else ()


def _group(endorsements: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    grouped: dict[str, dict[str, int]] = {}
    for function, organisation in sorted(endorsements):
        grouped.setdefault(function, {})[organisation] = endorsements[function, organisation]
    return grouped
