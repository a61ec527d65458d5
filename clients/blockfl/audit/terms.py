"""The terms of a round, repeated from public records: weights, scale, bounds, and the typical norm at its close."""

from blockfl.audit.errors import VerificationError
from blockfl.protocol.records import Model, Round, Task, Update
from blockfl.protocol.terms import choose_bound, compute_bounds, compute_typical, compute_weights, freeze_norms


def verify_terms(
    task: Task, round_: Round, updates: dict[str, Update], models: list[Model], rounds: dict[int, Round]
) -> None:
    """Verify that a round froze what follows from its task, its participants' samples and the rounds before.

    Args:
        task: The task.
        round_: The round.
        updates: What was submitted, by organisation.
        models: All versions of the task, ascending.
        rounds: All rounds of the task.

    Raises:
        VerificationError: Something else was frozen.
    """
    spec = task.spec
    where = f"task {round_.task}, round {round_.round}"
    if not round_.participants:
        raise VerificationError(f"{where}: nobody takes part in it")
    samples = {one.organisation: one.samples for one in round_.participants}
    weights = compute_weights(samples, spec.samples_cap, spec.weight_cap)
    if {one.organisation: one.weight for one in round_.participants} != weights:
        raise VerificationError(f"{where}: the weights do not follow from the declared samples")
    count = spec.norms.adaptive.rounds if spec.norms and spec.norms.adaptive else 0
    latest = [one for one in models if 0 < one.version <= round_.base_version][-count:] if count else []
    if not all(one.round in rounds for one in latest):
        raise VerificationError(f"{where}: a version before it names a round that is not on the ledger")
    typical = [norms.typical_l2_micro for norms in [rounds[one.round].norms for one in latest] if norms]
    bound = choose_bound(spec, typical)
    bounds = compute_bounds(bound, max(weights.values()), spec.manifest.dimension)
    frozen = (round_.scale, int(round_.bound_l2_squared), round_.bound_linf)
    if frozen != (bounds.scale, bounds.l2_squared, bounds.linf):
        raise VerificationError(f"{where}: scale or bounds do not follow from the task and the rounds before")
    norms = freeze_norms(spec, bound, bounds.scale, has_reference=round_.base_version > 0)
    if norms is not None:
        norms = norms.model_copy(update={"typical_l2_micro": _compute_typical(round_, updates)})
    if round_.norms != norms:
        raise VerificationError(f"{where}: the norm rules do not follow from the task and the accepted updates")


def _compute_typical(round_: Round, updates: dict[str, Update]) -> int:
    accepted = [
        (updates[one.organisation].norm_l2_squared_bits, one.weight)
        for one in round_.participants
        if one.organisation in round_.accepted
    ]
    return compute_typical(accepted, round_.scale)
