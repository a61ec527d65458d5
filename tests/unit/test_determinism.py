"""Nothing on the endorsement path can tell one endorser from another; found by looking, and the look is tested."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import blockfl.protocol
from support.determinism import (
    ELSEWHERE,
    EXCEPTIONS,
    GUARDED,
    MODELS,
    NOT_CALLED,
    PROMISED,
    find_faults,
    find_uses,
    is_excepted,
    list_named,
    list_path,
)

PATH = list_path()
LOOKED_AT = {name: path for name, path in PATH.items() if name not in ELSEWHERE}
PROTOCOL = {f"blockfl.protocol.{path.stem}": path for path in Path(blockfl.protocol.__path__[0]).glob("*.py")}


@pytest.mark.parametrize("module", sorted(LOOKED_AT))
def test_a_module_of_the_endorsement_path_gives_every_endorser_the_same(module: str) -> None:
    faults = find_faults(LOOKED_AT[module].read_text())
    assert [fault for fault in faults if not is_excepted(module, fault)] == []


@pytest.mark.parametrize("module", sorted(set(PROTOCOL) - set(PATH)))
def test_what_is_not_on_the_path_is_pure_all_the_same(module: str) -> None:
    faults = find_faults(PROTOCOL[module].read_text())
    allowed = {"float"} if module in MODELS else set()
    drawn = "generator.random"  # the institution's own, which it is given
    assert [fault for fault in faults if fault.kind not in allowed and fault.text != drawn] == []


def test_the_path_is_the_contract_and_what_it_imports() -> None:
    names = {"contract", "rounds", "setup", "credits", "query", "state", "chunk", "opener", "argument", "verifier"}
    assert {f"blockfl.contract.{name}" for name in names} <= set(LOOKED_AT)
    rules = {"judging", "round", "terms", "seal", "submission", "settlement", "scoring", "records", "commitment"}
    assert {f"blockfl.protocol.{name}" for name in rules} <= set(LOOKED_AT)
    assert not set(MODELS) & set(PATH)
    assert set(ELSEWHERE) <= set(PATH)


def test_every_exception_is_needed() -> None:
    needed = {
        is_excepted(module, fault) for module, path in LOOKED_AT.items() for fault in find_faults(path.read_text())
    }
    assert needed - {None} == set(EXCEPTIONS)


def test_what_is_excepted_because_the_contract_does_not_call_it_is_not_called() -> None:
    for module, path in LOOKED_AT.items():
        if module in ("blockfl.protocol.sums", "blockfl.fabric.identity.signing"):
            continue
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & set(NOT_CALLED), module


def uses_of(module: str, source: str) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for guarded, name in find_uses(module, source, GUARDED):
        found.setdefault((module, guarded), set()).add(name)
    return found


def test_of_modules_that_are_not_looked_at_only_those_names_are_used_that_were_promised() -> None:
    found: dict[tuple[str, str], set[str]] = {}
    for module, path in LOOKED_AT.items():
        found |= uses_of(module, path.read_text())
    assert found == PROMISED


@pytest.mark.parametrize(
    ("source", "guarded", "name"),
    [
        (
            "from blockfl.fabric.identity.msp_manager import MspManager",
            "blockfl.fabric.identity.msp_manager",
            "MspManager",
        ),
        ("from blockfl.fabric.identity.policy import MspManager", "blockfl.fabric.identity.msp_manager", "MspManager"),
        (
            "from blockfl.fabric.identity.policy import evaluate_signature_policy as f",
            "blockfl.fabric.identity.policy",
            None,
        ),
        ("from blockfl.fabric.shim import ContractServer", "blockfl.fabric.shim.server", "ContractServer"),
        ("from blockfl.fabric.shim import stream", "blockfl.fabric.shim.stream", "*"),
        ("from blockfl.fabric.identity import chain as links", "blockfl.fabric.identity.chain", "*"),
        ("from blockfl.fabric.identity.chain import *", "blockfl.fabric.identity.chain", "*"),
        ("import blockfl.fabric.client.endpoint", "blockfl.fabric.client.endpoint", "*"),
        ("import blockfl.fabric", "blockfl.fabric", "*"),
        ("from blockfl import fabric", "blockfl.fabric", "*"),
        ("from ..fabric.identity.msp import Msp", "blockfl.fabric.identity.msp", "Msp"),
        (
            "def f():\n    from blockfl.fabric.identity.signing import create_private_key",
            "blockfl.fabric.identity.signing",
            None,
        ),
        ("from blockfl.contract.settings import ServiceSettings", "blockfl.contract.settings", "ServiceSettings"),
    ],
)
def test_another_name_planted_into_the_contract_is_found(source: str, guarded: str, name: str | None) -> None:
    module = "blockfl.contract.state"
    spoilt = f"{PATH[module].read_text()}\n{source}\n"
    more = {key: names - PROMISED.get(key, frozenset()) for key, names in uses_of(module, spoilt).items()}
    (found,) = more.pop((module, guarded))
    assert name in (found, None)
    assert not any(more.values())


def test_the_policy_that_the_contract_writes_takes_nobody_s_signature_into_account() -> None:
    judges = {"MspManager", "verify_signature", "Identity"}
    source = PATH["blockfl.fabric.identity.policy"].read_text()
    assert list_named(source, "signature_policy") > {"n_of_principals", "role_principal"}
    assert not list_named(source, "signature_policy") & judges
    planted = f"{source}\n\ndef role_principal(*signed):\n    return signing_identities(*signed)\n"
    assert list_named(planted, "signature_policy") & judges


PLANTED = {
    "float": [
        "x = 1.5",
        "x = 2j",
        "y = a / b",
        "y /= b",
        "y = 2 ** -s",
        "float(a)",
        "round(a)",
        "np.float64(1)",
        "a.astype(np.float32)",
        "np.sqrt(1)",
        "a.mean()",
        "np.linalg.norm(a)",
        "np.frombuffer(a, dtype='<f4')",
        "math.log(2)",
        "from math import sqrt",
        "import statistics",
        "from decimal import Decimal",
        "for s in (float,): s(a)",
        "def f(x: int) -> int:\n    return int(x * 0.5)",
    ],
    "order": [
        "for one in {1, 2}: write(one)",
        "rows = [f(one) for one in set(names)]",
        "names = {one for one in a}\nfor name in names: write(name)",
        "list({*a})",
        "tuple(set(a) | set(b))",
        "','.join(frozenset(a))",
        "_CODES = frozenset(a)\ndef f():\n    return list(_CODES)",
        "for key in context.transient: write(key)",
        "[value for value in context.transient.values()]",
        "for one in left.keys() - right:\n    write(one)\nleft.union(right)",
        "(first, *rest) = a.difference(b)",
        "globals()",
    ],
    "clock": [
        "import time",
        "from datetime import datetime",
        "time.time()",
        "datetime.now()",
        "await asyncio.sleep(1)",
        "async def f():\n    async with asyncio.timeout(3): await g()",
    ],
    "randomness": [
        "import random",
        "from secrets import token_bytes",
        "import uuid",
        "np.random.default_rng()",
        "X25519PrivateKey.generate()",
        "urandom = os.urandom(3)",
    ],
    "network": ["import socket", "import grpc", "from urllib.request import urlopen", "import ssl"],
    "concurrency": [
        "import threading",
        "from concurrent.futures import ThreadPoolExecutor",
        "await asyncio.to_thread(f)",
        "await asyncio.gather(f(), g())",
        "asyncio.create_task(f())",
        "lock = asyncio.Lock()",
        "loop.run_in_executor(None, f)",
        "import subprocess",
    ],
    "code from data": [
        "import pickle",
        "from marshal import loads",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "np.load(file, allow_pickle=True)",
        "import importlib",
    ],
    "environment": [
        "import os",
        "open('x')",
        "os.environ['HOME']",
        "import sys",
        "from pathlib import Path",
        "path.read_text()",
        "print(1)",
        "import locale",
    ],
    "address": ["hash(a)", "id(a)", "sorted(a, key=id)"],
    "import": ["import tensorflow", "from sqlalchemy import text"],
}


@pytest.mark.parametrize(("kind", "source"), [(kind, one) for kind, sources in PLANTED.items() for one in sources])
def test_the_look_finds_what_is_planted(kind: str, source: str) -> None:
    assert kind in {fault.kind for fault in find_faults(source)}


@pytest.mark.parametrize("kind", [kind for kind in PLANTED if kind != "import"])
def test_a_violation_planted_into_the_contract_is_found(kind: str) -> None:
    source = PATH["blockfl.contract.reports"].read_text()
    assert "        detail=str(metrics.version),\n" in source
    for planted in PLANTED[kind]:
        lines = "".join(f"    {line}\n" for line in planted.splitlines())
        spoilt = source.replace("    record = metrics.model_copy(", f"{lines}    record = metrics.model_copy(")
        assert spoilt != source
        assert kind in {
            fault.kind for fault in find_faults(spoilt) if not is_excepted("blockfl.contract.reports", fault)
        }


@pytest.mark.parametrize(
    "source",
    [
        "a = 3 // 2 + 5 % 3 - 2**3",
        "if name in {1, 2}: f()",
        "sorted(set(a) - set(b))",
        "len({one.name for one in a}) != len(a)",
        "_CODES = frozenset(a)\ndef f(code):\n    return code in _CODES",
        "taken = {1} & set(b)\nif taken:\n    raise ValueError(min(taken))",
        "for key in sorted(context.transient): f(key)",
        "def f(x: float, y: set[int]) -> float: ...",
        "from math import isqrt\nmath.gcd(1, 2)",
        "Vector = npt.NDArray[np.float32]",
        "await f()\nx = json.loads(data)",
        "class A:\n    round: int",
    ],
)
def test_the_look_lets_pass_what_gives_everybody_the_same(source: str) -> None:
    assert find_faults(source) == []
