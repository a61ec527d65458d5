"""One example of each record that stands under a key, in each of its forms."""

from __future__ import annotations

import numpy as np

from blockfl.protocol.aggregation import FEDAVG, NormClippedMean
from blockfl.protocol.assessment import Assessment, Effect, RoundEffect
from blockfl.protocol.canonical import Record
from blockfl.protocol.claims import Dispute, Erasure, Withdrawal
from blockfl.protocol.economics import DEFAULT_ECONOMICS
from blockfl.protocol.goal import Appraisal, Goal
from blockfl.protocol.metrics import Metric, Metrics
from blockfl.protocol.norm_rules import RoundStatistics
from blockfl.protocol.optimiser import Momentum
from blockfl.protocol.publication import create_aggregate
from blockfl.protocol.records import Ending, Header, Notice, Progress, Round, RoundReferee, Vote
from blockfl.protocol.round import close_round, create_task
from blockfl.protocol.selection import Selection
from blockfl.protocol.submission import create_commitment, create_equivocation, create_update
from blockfl.protocol.task import TaskSpec
from support.federation import ALL_NORMS, INSTITUTIONS, NOW_MS, Federation, make_federation, make_table, make_training


def make_examples(federation: Federation) -> dict[str, Record]:
    """Return one example of each record that stands under a key."""
    header, _ = federation.update("alpha", np.zeros(federation.dimension, dtype=np.int16))
    update = create_update(header, NOW_MS)
    accepted = {
        name: update.model_copy(update={"organisation": name, "state": "accepted"})
        for name in ("alpha", "beta", "delta")
    }
    closed = close_round(
        federation.round,
        accepted,
        (),
        minimum_accepted=3,
        now_ms=federation.round.submit_deadline_ms,
        aggregation=FEDAVG,
    )
    _, progress, model = create_task(federation.task.spec, "coordinator", NOW_MS)
    return {
        "consortium": federation.consortium,
        "task": federation.task,
        "progress": progress,
        "committee key": federation.keys[0],
        "enrolment": federation.enrolments[0],
        "aggregate": create_aggregate(closed),
        "model": model,
        **make_specs(federation.task.spec),
        **make_rounds(federation.round, closed),
        **make_submissions(federation, header),
        **make_claims(federation.progress),
    }


def make_specs(spec: TaskSpec) -> dict[str, Record]:
    """Return the terms of a task, plain and with each of what a task may choose."""
    return {
        "spec": spec,
        "spec with economics": spec.model_copy(update={"economics": DEFAULT_ECONOMICS}),
        "spec with norms": make_federation(norms=ALL_NORMS).task.spec,
        "spec with a stable set": spec.model_copy(update={"stable_set": True, "weight_share_max_micro": 340_000}),
        "spec with personal layers": spec.model_copy(update={"personal": ("head/*", "norm*/gamma")}),
        "spec with columns": spec.model_copy(update={"table": make_table()}),
        "spec with training by round": spec.model_copy(update={"training": make_training()}),
        "spec with a share of participants": spec.model_copy(update={"selection": Selection(share_micro=300_000)}),
        "spec with a number of participants": spec.model_copy(update={"selection": Selection(count=3)}),
        "spec with an evaluator": spec.model_copy(update={"institutions": INSTITUTIONS[:3], "evaluators": ("gamma",)}),
        "spec with a goal": spec.model_copy(
            update={"goal": Goal(metric="auc", better="max", patience=3, min_delta_micro=500, report_s=300)}
        ),
        "spec with a robust rule": spec.model_copy(
            update={
                "aggregation": NormClippedMean(clip_l2_micro=0),
                "optimiser": Momentum(learning_rate_micro=1_000_000, beta_micro=900_000),
                "check": "recompute",
                "weight_cap": 1,
            }
        ),
        "spec with effect on rows": spec.model_copy(
            update={"effect": Effect(assessors=("regulator", "university"), tolerance_micro=10_000)}
        ),
    }


def make_rounds(opened: Round, closed: Round) -> dict[str, Record]:
    """Return rounds, plain and with what tasks add to them."""
    return {
        "open round": opened,
        "closed round": closed,
        "round with norms": make_federation(norms=ALL_NORMS).round,
        "round with institutions that rest": opened.model_copy(
            update={"participants": opened.participants[:3], "resting": ("gamma",)}
        ),
        "round with statistics": opened.model_copy(
            update={"statistics": RoundStatistics(trained=10, moving=2, limit=8192)}
        ),
        "round with a referee": opened.model_copy(
            update={
                "referee": RoundReferee(
                    organisation="university",
                    samples=120,
                    weight=1,
                    certificate_digest="ab" * 32,
                    if_absent="wait",
                    reference="accepted",
                )
            }
        ),
        "round with effect on rows": opened.model_copy(
            update={
                "effect": RoundEffect(assessors=("regulator", "university"), tolerance_micro=10_000, harmful=("delta",))
            }
        ),
    }


def make_submissions(federation: Federation, header: Header) -> dict[str, Record]:
    """Return what an institution submits, and what the contract makes of it."""
    other, _ = federation.update("alpha", np.ones(federation.dimension, dtype=np.int16))
    signed = federation.sign(header)
    equivocation = create_equivocation(header, federation.sign(other), NOW_MS)
    assert equivocation is not None
    return {
        "header": header,
        "signed header": signed,
        "update": create_update(header, NOW_MS),
        "commitment": create_commitment(header),
        "equivocation": equivocation,
    }


def make_claims(progress: Progress) -> dict[str, Record]:
    """Return what organisations say of a task and its rounds."""
    return {
        "withdrawal": Withdrawal(organisation="alpha", certificate_digest="ab" * 32, withdrawn_at_ms=NOW_MS),
        "ended progress": progress.model_copy(
            update={"ended": Ending(organisation="coordinator", reason="enough was learnt", ended_at_ms=NOW_MS)}
        ),
        "progress ended by a goal": progress.model_copy(
            update={
                "ended": Ending(organisation="regulator", reason="auc is as it was", ended_at_ms=NOW_MS, cause="goal")
            }
        ),
        "appraisal": Appraisal(
            task="heart",
            version=2,
            value_micro=812_000,
            counted=INSTITUTIONS,
            best_version=1,
            best_micro=813_000,
            mark_micro=812_800,
            without=1,
            appraised_at_ms=NOW_MS,
        ),
        "erasure": Erasure(task="heart", organisation="alpha", until_round=1, requested_at_ms=NOW_MS),
        "dispute": Dispute(
            task="heart",
            round=1,
            organisation="alpha",
            member="university",
            state="refuted",
            claimed_at_ms=NOW_MS,
            settled_by="regulator",
            settled_at_ms=NOW_MS + 1,
        ),
        "vote": Vote(task="heart", round=1, organisation="regulator", digest="0" * 64, voted_at_ms=NOW_MS),
        "metrics": Metrics(
            task="heart",
            version=1,
            organisation="alpha",
            model_digest="0" * 64,
            values=(Metric(name="r2", pooling="institution", value_micro=-800_000, count=5),),
            reported_at_ms=NOW_MS,
        ),
        "notice": Notice(task="heart", round=1, organisation="alpha", detail=""),
        "assessment": Assessment(
            task="heart",
            round=1,
            organisation="delta",
            member="regulator",
            base_loss_micro=512_000,
            loss_micro=640_000,
            assessed_at_ms=NOW_MS,
        ),
    }
