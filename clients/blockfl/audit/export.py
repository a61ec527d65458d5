"""Evidence taken from a running network: blocks and public payloads, verified on the way, as one bundle."""

from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from blockfl.audit.bundle import Bundle, BundleChain, BundleWriter
from blockfl.audit.chain import ChainProof
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.audit.verification import Progress, add_block
from blockfl.fabric.channel.block import encode_block, header_hash
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.catalogue import MODEL_COLLECTION, MODELS, TASKS, model_chunk_key

_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class Export:
    """What a bundle holds: its blocks, payloads, and the header hash of the last block, to be told with it."""

    first_block: int
    last_block: int
    last_hash: str
    payloads: int
    size_bytes: int


async def export_evidence(
    ledger: Ledger, chain: ChainProof, path: Path, earlier: list[Bundle], progress: Progress
) -> Export:
    """Write the evidence from the first block, or from the end of earlier bundles, to the present height.

    Args:
        ledger: An identity of any organisation.
        chain: Pins the first block; it verifies every block on the way.
        path: Where the bundle goes.
        earlier: Bundles of the same chain that this one continues.
        progress: Told how far it is.

    Raises:
        VerificationError: The chain is not as it must be, or not the earlier bundles'.
        LedgerError: The ledger cannot be read, or the file not be written.
    """
    evidence = BundleChain(earlier) if earlier else None
    for block in evidence.blocks() if evidence else ():
        await add_block(chain, block, ledger.signer, progress)
    first, previous = chain.blocks, chain.last_hash.hex()
    height = await ledger.gateway.height()
    if first >= height:
        raise LedgerError(f"there is nothing to export: the earlier bundles reach block {first - 1}, the last one")
    with BundleWriter(path) as writer:
        async with aclosing(ledger.gateway.blocks(first)) as blocks:
            async for block in blocks:
                _check_continuity(block, chain, first)
                await add_block(chain, block, ledger.signer, progress)
                writer.add_block(chain.blocks - 1, encode_block(block))
                if chain.blocks % _EVERY == 0 or chain.blocks == height:
                    progress(f"exported block {chain.blocks - 1} of {height - 1}")
                if chain.blocks == height:
                    break
        known = {digest for bundle in earlier for digest in bundle.manifest.payloads}
        payloads = await _add_payloads(ledger, History(chain), writer, known)
        manifest = writer.finish(
            channel=ledger.profile.channel,
            contract=ledger.profile.contract,
            first_block=first,
            previous_hash=previous,
            last_hash=chain.last_hash.hex(),
        )
    return Export(
        first_block=first,
        last_block=chain.blocks - 1,
        last_hash=manifest.last_hash,
        payloads=payloads,
        size_bytes=path.stat().st_size,
    )


def _check_continuity(block: object, chain: ChainProof, first: int) -> None:
    """Name a fork as what it is: the first new block must follow the last one of the earlier bundles."""
    previous = block.header.previous_hash  # type: ignore[attr-defined]
    if chain.blocks == first > 0 and previous != chain.last_hash:
        raise VerificationError(
            f"this peer's chain is another than the earlier bundles': it continues block {previous.hex()}, they end "
            f"with {chain.last_hash.hex()}",
            first,
        )


async def _add_payloads(ledger: Ledger, history: History, writer: BundleWriter, known: set[str]) -> int:
    """Add every chunk of an initial model or a published sum that no earlier bundle has."""
    count = 0
    for key in history.list_keys(TASKS.below()):
        spec = history.get(key).spec
        sums = [model.sum for model in history.read_all(MODELS.below(spec.task)) if model.sum is not None]
        for digest in (digest for blob in (spec.initial_model, *sums) for digest in blob.chunks):
            is_held = history.private_hash(MODEL_COLLECTION, model_chunk_key(spec.task, digest)) == digest
            if is_held and digest not in known:
                writer.add_payload(await ledger.read_model_chunk(spec.task, digest))
                known.add(digest)
                count += 1
    return count


def find_fork(first: BundleChain, second: BundleChain) -> int | None:
    """Compare two organisations' chains as far as both reach.

    Returns:
        The number of the first block that differs, or None.
    """
    for number, (one, other) in enumerate(zip(first.blocks(), second.blocks(), strict=False)):
        if header_hash(one.header) != header_hash(other.header):
            return number
    return None
