"""The whole proof: the chain, then every task's records, then every model."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from pathlib import Path

from blockfl.audit.chain import ChainProof, pinned_hash
from blockfl.audit.credits import verify_settlements, verify_supply
from blockfl.audit.errors import VerificationError
from blockfl.audit.history import History
from blockfl.audit.records import TaskProof, verify_models, verify_task
from blockfl.ledger.client import Ledger
from blockfl.ledger.errors import LedgerError
from blockfl.protocol.place import CONSORTIUM
from blockfl.protocol.records import Consortium
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

    def as_dict(self) -> dict[str, object]:
        """Return the report for machines."""
        return {"verified": True, **asdict(self)}


async def verify_ledger(ledger: Ledger, genesis: Path, progress: Progress) -> VerificationReport:
    """Verify everything up to the present height.

    Args:
        ledger: An identity of any organisation.
        genesis: The organisation's own copy of the first block.
        progress: Told what is being verified.

    Raises:
        VerificationError: Something is not as it must be.
        LedgerError: The ledger cannot be read.
    """
    try:
        anchor = pinned_hash(genesis.read_bytes())
    except OSError as error:
        raise LedgerError(f"{genesis}: your copy of the first block cannot be read ({error.strerror})") from error
    chain = ChainProof(genesis_hash=anchor, namespace=ledger.profile.contract)
    height = await ledger.gateway.height()
    async with aclosing(ledger.gateway.blocks(0)) as blocks:  # type: ignore[type-var]
        async for block in blocks:
            chain.add(block)
            if chain.blocks % _EVERY == 0 or chain.blocks == height:
                progress(f"verified block {chain.blocks - 1} of {height - 1}")
            if chain.blocks == height:
                break
    history = History(chain)
    proofs = await verify_records(ledger, history, progress)
    consortium = history.find(Consortium, CONSORTIUM)
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
        genesis_hash=anchor.hex(),
        last_block_hash=chain.last_hash.hex(),
        tasks=proofs,
    )


async def verify_records(ledger: Ledger, history: History, progress: Progress) -> tuple[TaskProof, ...]:
    """Verify the records, models and credits of every task; what is wrong with one does not hide the others.

    Args:
        ledger: Where models and sums come from.
        history: The records of a verified chain.
        progress: Told what is being verified, and at once what is not as it must be.

    Raises:
        VerificationError: After all tasks, with everything that is not as it must be.
        LedgerError: A model or sum cannot be read.
    """
    proofs, faults, settlements = [], [], 0
    for key in history.list_keys("task"):
        try:
            task = history.get(Task, key)
            proofs.append(await _verify_task(ledger, history, task, progress))
            settlements += verify_settlements(history, task)
        except VerificationError as error:
            faults.append(str(error))
            progress(f"not as it must be: {error}")
    try:
        verify_supply(history)
    except VerificationError as error:
        faults.append(str(error))
    if faults:
        raise VerificationError("; ".join(faults))
    if settlements:
        progress(f"credits: {settlements} settlements recomputed, nothing came from nowhere")
    return tuple(proofs)


async def _verify_task(ledger: Ledger, history: History, task: Task, progress: Progress) -> TaskProof:
    proof = verify_task(history, task)
    digest = await verify_models(ledger, history, task)
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
