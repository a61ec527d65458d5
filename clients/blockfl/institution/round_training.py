"""What one round asks of an institution's training, and the integers that are made of what training gave."""

import numpy as np

from blockfl.institution.encoder import UpdateEncoder
from blockfl.institution.frames import Train, Trained
from blockfl.institution.loss import list_losses
from blockfl.institution.vector import Vector
from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.model import check_finite
from blockfl.protocol.payload import Values
from blockfl.protocol.records import Round
from blockfl.protocol.statistics import measure_change
from blockfl.protocol.task import TaskSpec
from blockfl.protocol.training import plan_training


def make_request(spec: TaskSpec, number: int, seed: int | None) -> Train:
    """Return how to train in a round.

    Args:
        spec: The task's.
        number: Of the round.
        seed: The institution's, from which each round gets one of its own; None: training is not repeatable.
    """
    plan = plan_training(spec.training, number)
    return Train(
        epochs=plan.epochs,
        batch_size=plan.batch_size,
        learning_rate=plan.learning_rate_micro / 1e6 if plan.learning_rate_micro else None,
        seed=None if seed is None else int(np.random.SeedSequence([seed, number]).generate_state(1)[0]),
        round=number,
        proximal=plan.proximal_micro / 1e6,
        class_weights=tuple(one / 1e6 for one in plan.class_weights_micro),
    )


def check_loss(trained: Trained) -> None:
    """Check that training has a finite loss: otherwise its values are worth nothing to the others.

    Raises:
        ProtocolError: BFL307.
    """
    if trained.loss is None:
        raise ProtocolError(
            Code.NOT_FINITE,
            f"the loss on {trained.samples} samples is not finite, so nothing is sent: lower the learning rate, scale "
            "the columns, or check the labels",
        )


def encode_trained(
    encoder: UpdateEncoder, spec: TaskSpec, round_: Round, weight: int, base: Vector, trained: Vector
) -> tuple[Values, list[str]]:
    """Return the integers of an update, int16 of shape (d,), and what of it does not arrive whole, in words.

    Args:
        encoder: Clips, weights and rounds.
        spec: The task's.
        round_: The open round.
        weight: The institution's in it.
        base: The round's base model, shape (d,).
        trained: What training gave, shape (d,).

    Raises:
        ProtocolError: BFL307, training gave NaN or infinity.
    """
    check_finite(spec.manifest, trained)
    change = measure_change(spec.manifest, base, trained)
    values = encoder.encode(change, round_, weight)
    return values, list_losses(spec.manifest, change, round_, weight)
