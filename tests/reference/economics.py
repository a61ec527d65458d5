"""Scores and settlements the naive way: Gram–Schmidt on fractions, and one loop per rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import floor

from blockfl.protocol.economics import Standing
from blockfl.protocol.settlement import Facts

Vector = list[Fraction]


def dot(a: Vector, b: Vector) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


def residual(vector: Vector, basis: Sequence[Vector]) -> Vector:
    for other in basis:
        factor = dot(vector, other) / dot(other, other)
        vector = [x - factor * y for x, y in zip(vector, other, strict=True)]
    return vector


def make_basis(vectors: Sequence[Vector], start: Sequence[Vector] = ()) -> list[Vector]:
    basis = list(start)
    for vector in vectors:
        left = residual(vector, basis)
        if any(left):
            basis.append(left)
    return basis


def points(known: Sequence[Sequence[int]], updates: Sequence[Sequence[int]]) -> list[int]:
    """Return the points of each update."""
    base = make_basis([[Fraction(x) for x in one] for one in known])
    vectors = [[Fraction(x) for x in one] for one in updates]
    result = []
    for index, vector in enumerate(vectors):
        fresh = residual(vector, base)
        basis = make_basis(vectors[:index] + vectors[index + 1 :], base)
        dimension, rank = len(vector) - len(base), len(basis) - len(base)
        if not any(fresh) or dimension <= rank:
            result.append(0)
            continue
        unexplained = residual(vector, basis)
        adjusted = 1 - dot(unexplained, unexplained) / dot(fresh, fresh) * Fraction(dimension, dimension - rank)
        result.append(max(-1000, floor(1000 * adjusted)))
    return result


def weigh(points: Sequence[int], updates: Sequence[Sequence[int]], reference: Sequence[int]) -> list[int]:
    """Return points times the cosine to a reference: of at least 0 in thousandths, with the sign of the product."""
    made = []
    for one, update in zip(points, updates, strict=True):
        product = sum(x * y for x, y in zip(update, reference, strict=True))
        squares = sum(x * x for x in update) * sum(x * x for x in reference)
        cosine = 0
        while squares and Fraction((cosine + 1) ** 2, 10**6) <= Fraction(product**2, squares):
            cosine += 1
        made.append(floor(Fraction(one * cosine, 1000)) if product > 0 else -floor(Fraction(abs(one) * cosine, 1000)))
    return made


def points_of_gram(gram: Sequence[Sequence[int]], known: int, dimension: int) -> list[int]:
    """Return the points of each update from dot products: one whole elimination for each."""
    start = [[Fraction(value) for value in row] for row in gram]
    base_rank = take_away(start, range(known))
    made, updates = [], range(known, len(gram))
    for index in updates:
        rows = [list(row) for row in start]
        rank = take_away(rows, [other for other in updates if other != index])
        fresh, free = start[index][index], dimension - base_rank
        if not fresh or free <= rank:
            made.append(0)
            continue
        made.append(max(-1000, floor(1000 * (1 - rows[index][index] / fresh * Fraction(free, free - rank)))))
    return made


def take_away(rows: list[list[Fraction]], indices: Sequence[int]) -> int:
    """Take the projections on some vectors away from all; return these vectors' rank."""
    rank = 0
    for index in indices:
        line, pivot = list(rows[index]), rows[index][index]
        if pivot:
            rank += 1
            for row in rows:
                factor = row[index] / pivot
                row[:] = [value - factor * other for value, other in zip(row, line, strict=True)]
    return rank


def settle(
    facts: Facts, standings: Mapping[str, Standing], treasury: int, balances: Mapping[str, int]
) -> tuple[dict[str, int], dict[str, int], int]:
    """Return free credits, stakes and treasury after a round; ``balances`` are of every organisation."""
    policy = facts.spec.economics
    assert policy is not None
    free, stakes = dict(balances), {name: one.stake for name, one in standings.items()}
    contesting = [one for one in facts.reports if facts.base and one.model_digest != facts.base.digest]
    contested = 2 * len(contesting) > len(facts.round_.participants)
    for name in sorted(standings):
        share = 0
        if name in facts.equivocators:
            share = policy.equivocation
        elif name in facts.round_.rejected:
            code = facts.updates[name].code
            share = policy.format
            if code in ("BFL416", "BFL417", "BFL419", "BFL420", "BFL421", "BFL423"):
                share = policy.norm
            if code in ("BFL410", "BFL411", "BFL412", "BFL413"):
                share = policy.seal
            if code == "BFL409":
                share = policy.late
        elif name in facts.round_.absent and not contested:
            share = policy.absence * min(policy.absence_limit, 1 + standings[name].absences)
        if name not in [one.organisation for one in facts.round_.participants]:
            share = 0
        taken = min(stakes[name], standings[name].required * share // 1000)
        stakes[name] -= taken
        treasury += taken
    confirming = [one for one in facts.reports if facts.base and one.model_digest == facts.base.digest]
    confirmed = 2 * len(confirming) > len(facts.round_.participants)
    for vote in facts.base_votes:
        is_for_it = facts.base is not None and vote.digest == facts.base.digest
        if (is_for_it and contested) or (not is_for_it and confirmed):
            taken = min(policy.forgery, free[vote.organisation])
            free[vote.organisation] -= taken
            treasury += taken
    if not facts.round_.unjudged and facts.score.state == "scored":
        for member in facts.round_.committee:
            if policy.member_fee <= treasury:
                free[member.organisation] += policy.member_fee
                treasury -= policy.member_fee
    late = facts.model.published_at_ms - facts.round_.closed_at_ms > policy.publish_s * 1000
    if late == (facts.model.summed_by != facts.spec.aggregator) and policy.aggregator_fee <= treasury:
        free[facts.model.summed_by] += policy.aggregator_fee
        treasury -= policy.aggregator_fee
    pool = min(policy.pool, treasury)
    count = len(facts.round_.participants)
    for part in facts.round_.participants:
        name = part.organisation
        if name in facts.round_.accepted and name not in facts.equivocators:
            found = {one.organisation: one.points for one in facts.score.credits}.get(name, 0)
            paid = max(0, found - standings[name].debt)
            reward = floor(Fraction(pool * paid, 1000 * count))
            free[name] += reward
            treasury -= reward
    return free, stakes, treasury
