"""What each behaviour earns: 200 rounds on the real scoring, settlement and aggregation code.

Five institutions train a small model under the trusted mean, with a referee that has rows of its own; the first four
are honest (small, middle, large data), the fifth plays one behaviour in each run. So the figures compare what one
institution gets for honesty with what it gets for anything else while the others stay honest: whether honesty is the
best reply. Writes ``build/economics/summary.json`` and plots.
"""

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

# Matrices this small are slower on several threads; two runs at once are not.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt

from benchmarks.economics_plot import plot
from benchmarks.regression import CLASSES, DIMENSION, FEATURES, Array, Base, Data
from blockfl.protocol.account import compute_required_stake, create_standing, lock
from blockfl.protocol.aggregation import TrustedMean, combine, drive
from blockfl.protocol.aggregation_arithmetic import REFERENCE
from blockfl.protocol.codes import ProtocolError
from blockfl.protocol.economics import DEFAULT_ECONOMICS, KNOWN_SUMS, TREASURY, Account, Credit, Score, Standing
from blockfl.protocol.judging import judge_values
from blockfl.protocol.manifest import Manifest, Tensor
from blockfl.protocol.norms import compute_dot
from blockfl.protocol.payload import INT16, Values
from blockfl.protocol.quantise import quantise_update
from blockfl.protocol.records import Blob, Model, Participant, Round, Update
from blockfl.protocol.referee import Referee
from blockfl.protocol.reputation import list_eligible
from blockfl.protocol.round import close_round
from blockfl.protocol.scoring import compute_gram, compute_points, weigh_points
from blockfl.protocol.settlement import Facts, list_payments, settle_round
from blockfl.protocol.sums import apply_sum
from blockfl.protocol.task import Deadlines, TaskSpec
from blockfl.protocol.terms import compute_bounds, compute_weights
from blockfl.protocol.training import Training

BOUND_L2 = 2.0
LIMIT = 32767
REFEREE_SAMPLES = 200
SAMPLES = {"large": 600, "middle": 200, "other": 200, "player": 200, "small": 40}
BEHAVIOURS = (
    *("honest", "zero", "noise", "copy", "copy_noise", "stale_copy", "poisoner", "poisoner_scaled"),
    *("equivocator", "no_show", "overdeclared", "label_flip", "colluders", "copy_referee", "copy_referee_noise"),
)
OPEN = {
    "stale_copy": "is paid while the old step still lowers the referee's loss, and counts no more than one institution",
    "equivocator": "keeps what it earned honestly before; the first time takes the stake and its part in the task",
    "overdeclared": "earns what honesty earns and no more; under the trusted mean it has no more weight either",
}
"""Behaviours that earn more than ``LIMIT_SHARE`` of honesty, and what bounds their harm."""
LIMIT_SHARE = 0.2
DECLARED = {"overdeclared": 600}
TREASURY_START, ACCOUNT_START = 10_000_000, 50_000


@dataclass
class Ledger:
    """The public state of the simulated task."""

    spec: TaskSpec
    accounts: dict[str, int]
    standings: dict[str, Standing]
    base: Base = field(default_factory=lambda: np.zeros(DIMENSION, dtype=np.float32))
    sums: list[npt.NDArray[np.int32]] = field(default_factory=list)
    deltas: list[Array] = field(default_factory=list)

    @property
    def total(self) -> int:
        """All credits that there are."""
        return sum(self.accounts.values()) + sum(one.stake for one in self.standings.values())


@dataclass
class Run:
    """What one run came to."""

    rewards: dict[str, int]
    balances: dict[str, list[int]]
    reputations: dict[str, list[int]]
    points: list[int]
    conserved: bool
    accuracy: float
    staked: int
    alone: float = 0.0
    """What the referee reaches alone."""
    honest: int = 0
    agreeing: int = 0
    """Updates of honest institutions, and those that counted."""

    @property
    def counted(self) -> float:
        """The share of honest updates that had a part in the model."""
        return self.agreeing / max(1, self.honest)


def make_spec(rounds: int, samples: Mapping[str, int]) -> TaskSpec:
    """Return the task: the default policy."""
    fields: dict[str, object] = {"check": "recompute"} if "check" in TaskSpec.model_fields else {}
    fields |= {
        "task": "simulation",
        "title": "",
        "manifest": Manifest(tensors=(Tensor(name="w", dtype="float32", shape=(DIMENSION,), offset=0),)),
        "initial_model": Blob(digest="0" * 64, size_bytes=1, chunks=("0" * 64,)),
        "encoding": "int16",
        "aggregation": TrustedMean(by_cosine=0),
        "aggregator": "coordinator",
        "referee": Referee(organisations=("university",), if_absent="wait"),
        "institutions": tuple(sorted(samples)),
        "rounds": rounds,
        "minimum_accepted": 3,
        "bound_l2_micro": round(BOUND_L2 * 10**6),
        "weight_cap": 1,
        "samples_cap": 10**6,
        "deadlines": Deadlines(submit_s=60, judge_s=60, publish_s=60),
        "training": Training(epochs=1, batch_size=32, learning_rate_micro=0),
        "economics": DEFAULT_ECONOMICS,
    }
    return TaskSpec.model_validate(fields)


def make_ledger(spec: TaskSpec, samples: Mapping[str, int]) -> Ledger:
    """Return a ledger where everybody has locked the stake."""
    accounts = {TREASURY: TREASURY_START, "coordinator": 0, "regulator": 0, "university": 0}
    standings = {}
    for name, count in samples.items():
        required = compute_required_stake(DEFAULT_ECONOMICS, samples=count, samples_cap=spec.samples_cap)
        account = Account(organisation=name, credits=ACCOUNT_START)
        account, standings[name] = lock(account, create_standing(spec.task, name, required), required)
        accounts[name] = account.credits
    return Ledger(spec, accounts, standings)


def open_round(ledger: Ledger, number: int, samples: Mapping[str, int]) -> Round:
    """Return the next round."""
    eligible = list_eligible(ledger.standings, number=number, minimum=ledger.spec.minimum_accepted)
    weights = compute_weights(
        {name: samples[name] for name in eligible},
        samples_cap=ledger.spec.samples_cap,
        weight_cap=ledger.spec.weight_cap,
    )
    bounds = compute_bounds(
        ledger.spec.bound_l2_micro, weight_max=max(weights.values()), dimension=DIMENSION, encoding=INT16
    )
    return Round(
        task=ledger.spec.task, round=number, state="open", failure="", base_version=number, base_digest="0" * 64,
        committee=(), threshold=2,
        participants=tuple(
            Participant(organisation=name, samples=samples[name], weight=weight, certificate_digest="0" * 64)
            for name, weight in weights.items()
        ),
        scale=bounds.scale, bound_l2_squared=str(bounds.l2_squared), bound_linf=bounds.linf, opened_at_ms=0,
        submit_deadline_ms=0, judge_deadline_ms=0, publish_deadline_ms=0, closed_at_ms=0,
        accepted=(), rejected=(), unjudged=(), absent=(),
        divisor=0,
    )  # fmt: skip


def behave(behaviour: str, scene: "Scene", ledger: Ledger, rng: np.random.Generator) -> Array | None:
    """Return the delta that a behaviour sends in place of the honest one, None for nothing."""
    honest = scene.honest
    size = float(np.linalg.norm(honest))
    noise = rng.normal(0, size / np.sqrt(DIMENSION), DIMENSION)
    previous = ledger.deltas[-1] if ledger.deltas else np.zeros(DIMENSION)
    stale = ledger.deltas[-KNOWN_SUMS - 1] if len(ledger.deltas) > KNOWN_SUMS else previous
    deltas: dict[str, Array | None] = {
        "zero": np.zeros(DIMENSION),
        "noise": noise,
        "copy": previous,
        "copy_noise": previous + 0.3 * noise,
        "stale_copy": stale,
        "poisoner": -honest,
        "no_show": None,
        "label_flip": scene.flipped,
        "colluders": scene.agreed * size,
        "copy_referee": scene.reference,
        "copy_referee_noise": scene.reference + 0.3 * noise,
    }
    return deltas.get(behaviour, honest)


@dataclass(frozen=True)
class Scene:
    """What a player has before it: its honest delta, one from exchanged labels, the referee's, and agreed noise."""

    honest: Array
    flipped: Array
    reference: Array
    agreed: Array


def encode(delta: Array, round_: Round, weight: int, behaviour: str, rng: np.random.Generator) -> Values:
    """Return the integers that are submitted."""
    values = quantise_update(
        delta,
        weight=weight,
        scale=round_.scale,
        bound_l2_squared=int(round_.bound_l2_squared),
        bound_linf=round_.bound_linf,
        generator=rng,
    )
    if behaviour != "poisoner_scaled":
        return values
    return np.clip(-100 * values.astype(np.int64), -LIMIT, LIMIT).astype(np.int16)


def judge(values: Values, round_: Round, part: Participant) -> Update:
    """Return the record with the committee's verdict."""
    code = ""
    try:
        judge_values(
            values,
            dimension=DIMENSION,
            weight=part.weight,
            bound_l2_squared=int(round_.bound_l2_squared),
            bound_linf=round_.bound_linf,
        )
    except ProtocolError as error:
        code = error.code.identifier
    return Update(
        task=round_.task, round=round_.round, organisation=part.organisation, header_digest="0" * 64,
        state="rejected" if code else "accepted", code=code, reason="", norm_l2_squared_bits=0, norm_linf_bits=0,
        submitted_at_ms=0, judged_at_ms=0,
    )  # fmt: skip


def simulate(behaviour: str, rounds: int, seed: int) -> Run:
    """Run one task in which the fifth institution plays a behaviour."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, 1, (FEATURES, CLASSES))
    data = {name: Data.draw(count, truth, rng) for name, count in SAMPLES.items()}
    test = Data.draw(2000, truth, rng)
    referee = Data.draw(REFEREE_SAMPLES, truth, rng)
    liar = Data(data["player"].x, (data["player"].y + 1) % CLASSES)
    samples = SAMPLES | {"player": DECLARED.get(behaviour, SAMPLES["player"])}
    ledger = make_ledger(make_spec(rounds, samples), samples)
    playing = () if behaviour == "honest" else ("player", "other") if behaviour == "colluders" else ("player",)
    start = ledger.total
    run = Run(dict.fromkeys(samples, 0), defaultdict(list), defaultdict(list), [], True, 0.0,
              ledger.standings["player"].stake)  # fmt: skip
    for number in range(1, rounds + 1):
        round_ = open_round(ledger, number, samples)
        submitted: dict[str, Values] = {}
        updates: dict[str, Update] = {}
        learnt = referee.train(ledger.base, rng)
        flipped = liar.train(ledger.base, rng) if behaviour == "label_flip" else np.zeros(DIMENSION)
        agreed = rng.normal(0, 1 / np.sqrt(DIMENSION), DIMENSION)
        for part in round_.participants:
            name = part.organisation
            played = behaviour if name in playing else "honest"
            scene = Scene(data[name].train(ledger.base, rng), flipped, learnt, agreed)
            delta = behave(played, scene, ledger, rng)
            if delta is not None:
                submitted[name] = encode(delta, round_, part.weight, played, rng)
                updates[name] = judge(submitted[name], round_, part)
        cheats = behaviour == "equivocator" and number % 20 == 0 and "player" in submitted
        round_ = close_round(
            round_,
            updates,
            ("player",) if cheats else (),
            minimum_accepted=3,
            now_ms=1,
            aggregation=ledger.spec.aggregation,
        )
        reference = encode(learnt, round_, 1, "honest", rng)
        play_out(ledger, run, round_, submitted, reference, updates, ("player",) if cheats else (), playing)
        run.conserved = run.conserved and ledger.total == start
        for name in samples:
            run.balances[name].append(ledger.accounts[name] + ledger.standings[name].stake)
            run.reputations[name].append(ledger.standings[name].reputation)
    run.accuracy = test.accuracy(ledger.base)
    if behaviour == "honest":
        run.alone = test.accuracy(follow(referee, rounds, np.random.default_rng([seed, 1])))
    return run


def follow(referee: Data, rounds: int, rng: np.random.Generator) -> Base:
    """Return the model of a referee that learns alone."""
    base = np.zeros(DIMENSION, dtype=np.float32)
    for _ in range(rounds):
        base = (base + referee.train(base, rng)).astype(np.float32)
    return base


def play_out(
    ledger: Ledger, run: Run, round_: Round, submitted: Mapping[str, Values], reference: Values,
    updates: Mapping[str, Update], equivocators: tuple[str, ...], playing: Sequence[str],
) -> None:  # fmt: skip
    """Aggregate, score and settle a closed round."""
    if round_.state == "failed":
        return
    accepted = [submitted[name] for name in round_.accepted]
    combination = combine(
        ledger.spec.aggregation, dimension=DIMENSION, count=len(accepted), scale=round_.scale, has_reference=True
    )
    total = drive(combination, lambda index: reference if index == REFERENCE else accepted[index])
    honest = [submitted[name] for name in round_.accepted if name not in playing]
    run.honest += len(honest)
    run.agreeing += sum(compute_dot(one, reference) > 0 for one in honest)
    known = ledger.sums[-KNOWN_SUMS:]
    gram = compute_gram([*known, reference, *accepted])
    shared = compute_points(gram, known=len(known) + 1, dimension=DIMENSION)
    points = weigh_points(shared, gram, len(known))
    for name, one in zip(round_.accepted, points, strict=True):
        if name == "player":
            run.points.append(one)
    credits = tuple(Credit(organisation=name, points=one) for name, one in zip(round_.accepted, points, strict=True))
    facts = Facts(
        spec=ledger.spec,
        round_=round_.model_copy(update={"state": "published"}),
        updates=updates,
        equivocators=equivocators,
        score=Score(task=round_.task, round=round_.round, state="scored", credits=credits, scored_at_ms=0),
        model=Model(
            task=round_.task,
            version=round_.round,
            round=round_.round,
            digest="0" * 64,
            base_digest=None,
            sum=None,
            scale=0,
            divisor=1,
            accepted=(),
            summed_by="coordinator",
            voters=("coordinator",),
            published_at_ms=1,
        ),
    )
    settlement = settle_round(facts, ledger.standings, treasury=ledger.accounts[TREASURY], balances={}, now_ms=0)
    ledger.accounts[TREASURY] = settlement.treasury
    for name, amount in list_payments(settlement).items():
        ledger.accounts[name] += amount
    for outcome in settlement.outcomes:
        ledger.standings[outcome.organisation] = outcome.standing
        run.rewards[outcome.organisation] += outcome.reward
    before = ledger.base
    ledger.base = apply_sum(before, total, scale=round_.scale, divisor=round_.divisor)
    ledger.sums.append(total)
    ledger.deltas.append(ledger.base.astype(np.float64) - before)


def summarise(runs: Mapping[str, Sequence[Run]], rounds: int) -> dict[str, object]:
    """Return the summary: means over the runs of each behaviour."""
    rewards = {name: round(_average(one.rewards["player"] / rounds for one in all_), 3) for name, all_ in runs.items()}
    shares = {name: round(reward / rewards["honest"], 4) for name, reward in rewards.items()}
    net = {name: _average(one.balances["player"][-1] - ACCOUNT_START for one in all_) for name, all_ in runs.items()}
    return {
        "conserved": all(run.conserved for all_ in runs.values() for run in all_),
        "rounds": rounds,
        "seeds": len(runs["honest"]),
        "open": {
            name: OPEN.get(name, "not expected")
            for name, share in shares.items()
            if name != "honest" and share > LIMIT_SHARE
        },
        "reward_per_round": rewards,
        "share_of_honest": shares,
        "highest_share_of_honest": {
            name: round(
                max(
                    one.rewards["player"] / honest.rewards["player"]
                    for one, honest in zip(all_, runs["honest"], strict=True)
                ),
                4,
            )
            for name, all_ in runs.items()
        },
        "net_per_round": {name: round(one / rounds, 3) for name, one in net.items()},
        "stake": {name: {"locked": all_[0].staked, "net": round(net[name])} for name, all_ in runs.items()},
        "reward_per_round_of_honest_by_data": {
            name: round(_average(one.rewards[name] / rounds for one in runs["honest"]), 3) for name in SAMPLES
        },
        "counted": {name: round(_average(one.counted for one in all_), 4) for name, all_ in runs.items()},
        "points_mean": {
            name: round(_average(_average(one.points) for one in all_), 2)
            for name, all_ in runs.items()
            if all(one.points for one in all_)
        },
        "accuracy": {name: round(_average(one.accuracy for one in all_), 4) for name, all_ in runs.items()},
        "accuracy_of_referee_alone": round(_average(one.alone for one in runs["honest"]), 4),
    }


def _average(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))


Game = tuple[str, int, int]
"""A behaviour, how many rounds, and the seed."""


def play(game: Game) -> Run:
    """Play a game."""
    return simulate(*game)


def play_all(games: Sequence[Game], kept: Path, processes: int | None) -> dict[Game, Run]:
    """Play what was not played yet; a run that was stopped goes on with what it kept."""
    done: dict[Game, Run] = {}
    for line in kept.read_text().splitlines() if kept.exists() else ():
        behaviour, rounds, seed, run = json.loads(line)
        done[behaviour, rounds, seed] = Run(**run)
    missing = [game for game in games if game not in done]
    with ProcessPoolExecutor(processes) as pool, kept.open("a") as file:
        for game, run in zip(missing, pool.map(play, missing), strict=True):
            done[game] = run
            file.write(json.dumps([*game, vars(run)]) + "\n")
            file.flush()
            print(f"{game[0]}: {run.rewards['player'] / game[1]:.1f} credits a round", flush=True)
    return {game: done[game] for game in games}


def main() -> None:
    """Run every behaviour; write summary and plots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--directory", type=Path, default=Path("build/economics"))
    arguments = parser.parse_args()
    arguments.directory.mkdir(parents=True, exist_ok=True)
    games = [(behaviour, arguments.rounds, seed) for seed in range(arguments.seeds) for behaviour in BEHAVIOURS]
    played = play_all(games, arguments.directory / "runs.jsonl", arguments.processes)
    runs = {name: [run for game, run in played.items() if game[0] == name] for name in BEHAVIOURS}
    summary = summarise(runs, arguments.rounds)
    (arguments.directory / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    plot({behaviour: all_[0] for behaviour, all_ in runs.items()}, arguments.directory)
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
