"""A mutation run over the rules: each mutant of a module of ``protocol/`` should make a test of it fail.

    make mutation MODULE="judging terms"        these modules; without MODULE every one that has rules
    make mutation RULES=1                       only whole rules taken away: refusals, calls that check, fields' limits

Every operator, comparison, number and condition of the module is changed, one at a time, in a copy of the sources, and
the module's tests run until the first fails; what these let live is put to whole rounds. Results stay in
``build/mutation``, so that a run that was stopped goes on; ``docs/mutation.md`` says why survivors survive.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import re
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import cryptography.x509
import fabric_protos.peer.proposal_pb2
import grpc.aio
import hypothesis.strategies
import numpy as np
import pydantic
import pytest

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "build" / "mutation"
RULES: Final = ROOT / "protocol" / "blockfl" / "protocol"
TIMEOUT_S: Final = 120
"""Of processor time: a mutant that never ends is killed, too."""
FORMATS: Final = ["tests/unit/test_record_schemas.py", "tests/unit/test_protocol_vectors.py"]
"""What every module's mutants are put to, after its own tests."""
LAST: Final = [
    f"tests/unit/test_contract_{part}.py"
    for part in ("round", "submission", "judging", "norms", "referee", "effect", "publication", "credits")
]
"""Whole rounds, for what the tests of a module let live."""
_WHOLE: Final = ("test_contract", "test_audit", "test_round_states", "test_rules_in_rounds", "test_aggregator")
_DECLARATIONS: Final = ("Field", "StringConstraints")
_LIMITS: Final = ("ge", "gt", "le", "lt", "max_length", "min_length", "pattern")
_PRELOADED: Final = (cryptography.x509, fabric_protos.peer.proposal_pb2, grpc.aio, hypothesis.strategies, np, pydantic)
_COMPARISONS: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is},
}
_OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult},
    **{ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.LShift: ast.RShift},
}


@dataclass(frozen=True)
class Mutant:
    """A change of one place in a module."""

    module: str
    number: int
    line: int
    what: str


def mutate(source: str) -> Iterator[tuple[int, str, str, bool]]:
    """Yield line, description and text of every mutant of a module, and whether it lacks a whole rule."""
    tree = ast.parse(source)
    skipped = {id(inner) for node in ast.walk(tree) for inner in _list_skipped(node)}
    for index, node in enumerate(ast.walk(tree)):
        if id(node) in skipped:
            continue
        for variant in range(_count_variants(node)):
            mutated = copy.deepcopy(tree)
            target = next(one for number, one in enumerate(ast.walk(mutated)) if number == index)
            before = ast.unparse(target)
            _change(target, variant)
            what = f"{_short(before)} → {_short(ast.unparse(target))}"
            yield getattr(node, "lineno", 0), what, ast.unparse(mutated), _is_rule(node, variant)


def _is_rule(node: ast.AST, variant: int) -> bool:
    """Whether a mutant takes a rule away: a refusal that never comes, a check not called, a limit not declared."""
    if isinstance(node, ast.If):
        return not variant and any(isinstance(one, ast.Raise) for one in node.body)
    return isinstance(node, ast.Expr) or bool(_list_limits(node))


def _list_limits(node: ast.AST) -> list[int]:
    """Return which keywords of a declaration are limits of a record's field."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _DECLARATIONS:
        return []
    return [index for index, keyword in enumerate(node.keywords) if keyword.arg in _LIMITS]


def _list_skipped(node: ast.AST) -> Iterator[ast.AST]:
    """What no test can or need see: documentation, types, the wording of errors, and module constants' names."""
    said: list[ast.AST | None] = []
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        said = [node.value]
    elif isinstance(node, ast.JoinedStr):
        said = [*node.values]
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        said = [node.returns]
    elif isinstance(node, ast.arg):
        said = [node.annotation]
    elif isinstance(node, ast.AnnAssign):
        # The limits in it are rules, and left out one by one.
        limited = [one for one in ast.walk(node.annotation) if _list_limits(one)]
        yield from (one for one in ast.walk(node.annotation) if one not in limited)
    elif isinstance(node, ast.Import | ast.ImportFrom):
        said = [node]
    for one in said:
        if one is not None:
            yield from ast.walk(one)


def _count_variants(node: ast.AST) -> int:
    if isinstance(node, ast.Compare):
        return sum(type(operator) in _COMPARISONS for operator in node.ops[:1])
    if isinstance(node, ast.BinOp | ast.AugAssign):
        return int(type(node.op) in _OPERATORS)
    if isinstance(node, ast.Constant):
        return int(isinstance(node.value, bool | int))
    if isinstance(node, ast.If):
        return 2
    if isinstance(node, ast.Expr):
        return int(isinstance(node.value, ast.Call))
    return len(_list_limits(node)) or int(isinstance(node, ast.BoolOp | ast.IfExp | ast.Raise) or _is_bound(node))


def _is_bound(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("min", "max", "all", "any")
    )


def _change(node: ast.AST, variant: int) -> None:
    if isinstance(node, ast.Compare):
        node.ops[0] = _COMPARISONS[type(node.ops[0])]()
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        node.op = _OPERATORS[type(node.op)]()
    elif isinstance(node, ast.Constant):
        node.value = not node.value if isinstance(node.value, bool) else node.value + 1  # type: ignore[operator]
    elif isinstance(node, ast.If):
        node.test = ast.Constant(value=bool(variant))
    elif isinstance(node, ast.Expr):
        node.value = ast.Constant(value=...)
    elif isinstance(node, ast.Call) and (limits := _list_limits(node)):
        del node.keywords[limits[variant]]
    elif isinstance(node, ast.BoolOp):
        node.op = ast.And() if isinstance(node.op, ast.Or) else ast.Or()
    elif isinstance(node, ast.IfExp):
        node.body, node.orelse = node.orelse, node.body
    elif isinstance(node, ast.Raise):
        node.exc, node.cause = ast.parse("AssertionError()", mode="eval").body, None
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        node.func.id = {"min": "max", "max": "min", "all": "any", "any": "all"}[node.func.id]


def _short(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return first if len(first) <= 70 else f"{first[:70]}…"


def list_tests(module: str) -> list[str]:
    """Return the unit tests of a module, those of its neighbours, and of formats; whole rounds are `LAST`."""
    named = re.compile(rf"from blockfl\.protocol\.{module} import|import blockfl\.protocol\.{module}\b")
    found = [path for path in sorted((ROOT / "tests" / "unit").glob("test_*.py")) if named.search(path.read_text())]
    found = [path for path in found if not path.stem.startswith(_WHOLE)]
    own = [path for path in found if path.stem.startswith(f"test_{module}")]
    neighbours = [path for path in found if path not in own]
    return [str(path.relative_to(ROOT)) for path in [*own, *neighbours]] + FORMATS


def run_module(module: str, limit: int | None, *, only_rules: bool = False) -> dict[str, str]:
    """Run the mutants of a module that have no result yet; return what became of all: killed, or survived."""
    place = BUILD / f"{module}.json"
    BUILD.mkdir(parents=True, exist_ok=True)
    results: dict[str, str] = json.loads(place.read_text()) if place.exists() else {}
    work = BUILD / f"work-{module}"
    shutil.rmtree(work, ignore_errors=True)
    for room in (
        "protocol",
        "fabric",
        "chaincode",
        "clients",
        "aggregator",
        "network",
        "benchmarks",
        "examples",
        "tests",
        "docs",
    ):
        shutil.copytree(ROOT / room, work / room, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    shutil.copy(ROOT / "pyproject.toml", work)
    target = work / RULES.relative_to(ROOT) / f"{module}.py"
    original = target.read_text()
    tests = list_tests(module)
    target.write_text(ast.unparse(ast.parse(original)))
    if not _passes(work, tests) or not _passes(work, LAST):
        raise SystemExit(f"{module}: its tests fail without any mutation")
    ran = 0
    for number, (line, what, text, is_rule) in enumerate(mutate(original)):
        name = json.dumps(asdict(Mutant(module, number, line, what)), ensure_ascii=False)
        if name in results or (only_rules and not is_rule) or (limit is not None and ran >= limit):
            continue
        target.write_text(text)
        ran += 1
        results[name] = "survived" if _passes(work, tests) and _passes(work, LAST) else "killed"
        target.write_text(original)
        place.write_text(json.dumps(results, indent=1, ensure_ascii=False))
    shutil.rmtree(work)
    return results


def _passes(work: Path, tests: list[str]) -> bool:
    """Run tests in a child of this process, which has loaded everything but our own code."""
    child = os.fork()
    if child == 0:
        os.setsid()
        os.chdir(work)
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        rooms = ("protocol", "fabric", "chaincode", "clients", "aggregator", "network")
        sys.path[:0] = [*(str(work / room) for room in rooms), str(work)]
        sys.dont_write_bytecode = True
        hypothesis.settings.register_profile("mutation", max_examples=25, deadline=None, derandomize=True)
        hypothesis.settings.load_profile("mutation")
        resource.setrlimit(resource.RLIMIT_CPU, (TIMEOUT_S, TIMEOUT_S))
        os._exit(int(pytest.main(["-x", "-q", "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests])))
    _, status = os.waitpid(child, 0)
    return status == 0


def main() -> int:
    """Run the mutants of the modules named, and print what survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--limit", type=int, help="so many mutants of each module in this run")
    parser.add_argument("--rules", action="store_true", help="only mutants that lack a whole rule")
    options = parser.parse_args()
    names = options.modules or sorted(path.stem for path in RULES.glob("*.py") if path.stem != "__init__")
    for module in names:
        results = run_module(module, options.limit, only_rules=options.rules)
        survived = [json.loads(name) for name, result in results.items() if result == "survived"]
        print(f"{module}: {len(results)} mutants, {len(results) - len(survived)} killed, {len(survived)} survived")
        for one in survived:
            print(f"    line {one['line']}: {one['what']}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
