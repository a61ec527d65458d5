"""The protocol is pure: nothing of the outside is in reach, and no float decides anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import blockfl.protocol

ROOT = Path(blockfl.protocol.__path__[0])
MODULES = sorted(ROOT.glob("*.py"))
ALLOWED = {
    *("base64", "collections", "dataclasses", "enum", "functools", "hashlib", "hmac", "json", "math", "re", "typing"),
    *("cryptography", "numpy", "pydantic", "rfc8785"),
}
FLOATING = {"aggregation.py", "model.py", "optimiser.py", "quantise.py", "ring.py"}
"""What computes models, and the one exception: the ring's FFT, whose error is proven to be less than one half."""
OUTSIDE = {"default_rng", "generate", "generate_key", "now", "random", "seed", "token_bytes", "urandom", "utcnow"}
BUILT_IN = {"eval", "exec", "hash", "id", "input", "open", "print", "__import__"}


def impurities(tree: ast.AST) -> Iterator[str]:
    """Yield what reaches outside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] not in ALLOWED)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.split(".")[0] not in ALLOWED and not f"{module}.".startswith("blockfl.protocol."):
                yield module
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            drawn = isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == "generator.random"
            if (name in BUILT_IN and isinstance(node.func, ast.Name)) or (name in OUTSIDE and not drawn):
                yield f"{name}()"


def floats(tree: ast.AST) -> Iterator[str]:
    """Yield what computes with floats."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            yield f"the float {node.value}"
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            yield "a division"
        elif isinstance(node, ast.Name) and node.id == "float":
            yield "float"
        elif isinstance(node, ast.Attribute) and node.attr.startswith(("float", "sqrt", "ldexp", "linalg")):
            yield node.attr


def parse(path: Path) -> ast.AST:
    return ast.parse(path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_of_the_protocol_reaches_for_nothing_outside(path: Path) -> None:
    assert list(impurities(parse(path))) == []


@pytest.mark.parametrize("path", [one for one in MODULES if one.name not in FLOATING], ids=lambda path: path.name)
def test_no_float_decides_anything(path: Path) -> None:
    assert list(floats(parse(path))) == []


def test_every_module_is_looked_at() -> None:
    names = {path.name for path in MODULES}
    assert names >= FLOATING | {"judging.py", "round.py", "seal.py", "submission.py", "terms.py"}


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import random",
        "from secrets import token_bytes",
        "from blockfl.fabric import identity",
        "import numpy\nnumpy.random.default_rng()",
        "X25519PrivateKey.generate()",
        "generator.seed(1)",
        "numpy.random.random(3)",
        "open('x')",
    ],
)
def test_the_look_finds_what_reaches_outside(source: str) -> None:
    assert len(list(impurities(ast.parse(source)))) == 1


@pytest.mark.parametrize("source", ["x = 1.5", "y = a / b", "y /= b", "float(a)", "np.float64(1)", "np.sqrt(1)"])
def test_the_look_finds_floats(source: str) -> None:
    assert len(list(floats(ast.parse(source)))) == 1
