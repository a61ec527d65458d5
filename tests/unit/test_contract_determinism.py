"""What a transaction does depends on its arguments and the ledger only: nothing else is in reach of the contract."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockfl.contract

ROOT = Path(blockfl.contract.__path__[0])
# What runs at the service's start, before any transaction.
OUTSIDE = {"settings.py", "__main__.py"}
MODULES = sorted(path for path in ROOT.glob("*.py") if path.name not in OUTSIDE)
FORBIDDEN = {
    *("time", "datetime", "calendar", "random", "secrets", "uuid", "os", "sys", "pathlib", "socket", "ssl", "io"),
    *("threading", "multiprocessing", "concurrent", "subprocess", "signal", "tempfile", "logging", "grpc", "urllib"),
    *("math", "statistics", "numpy", "decimal", "fractions", "pickle", "importlib", "json"),
}
CALLS = {"float", "set", "frozenset", "hash", "id", "open", "eval", "exec", "input", "print", "globals", "round"}


def faults(source: str) -> Iterator[str]:
    """Yield what a module must not contain."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN:
            yield str(node.module)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            yield f"{node.func.id}()"
        elif isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"the float {node.value}"
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            yield "a division of floats"
        elif isinstance(node, ast.Set | ast.SetComp):
            yield "a set"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_of_the_contract_reaches_for_nothing_else(path: Path) -> None:
    assert list(faults(path.read_text())) == []


def test_every_module_that_a_transaction_runs_through_is_looked_at() -> None:
    assert {"contract.py", "setup.py", "rounds.py", "query.py", "state.py", "chunk.py", "opener.py"} <= {
        path.name for path in MODULES
    }


@pytest.mark.parametrize(
    "source", ["import time", "from os import path", "x = 1.5", "y = a / b", "z = {1, 2}", "set(a)", "float(a)"]
)
def test_the_look_finds_what_it_looks_for(source: str) -> None:
    assert len(list(faults(source))) == 1
