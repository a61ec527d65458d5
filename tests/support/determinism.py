"""What must not be on the endorsement path: everything by which two honest endorsers could arrive at different bytes.

`find_faults` reads a module's syntax, not its behaviour: it sees the names that are used. What it lets pass is listed
below, with the reason, by module and function; a test fails when an exception is no longer needed.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

Kind = Literal[
    "float",
    "order",
    "clock",
    "randomness",
    "network",
    "concurrency",
    "code from data",
    "environment",
    "address",
    "import",
]
ROOT: Final = Path(__file__).parents[2]

_MODULES: Final[Mapping[Kind, frozenset[str]]] = {
    "float": frozenset({"cmath", "decimal", "fractions", "statistics"}),
    "order": frozenset({"glob", "weakref"}),
    "clock": frozenset({"calendar", "datetime", "sched", "time", "timeit", "zoneinfo"}),
    "randomness": frozenset({"random", "secrets", "uuid"}),
    "network": frozenset(
        {"aiohttp", "ftplib", "grpc", "http", "requests", "select", "selectors", "smtplib", "socket", "ssl", "urllib"}
    ),
    "concurrency": frozenset(
        {"_thread", "concurrent", "contextvars", "multiprocessing", "queue", "signal", "subprocess", "threading"}
    ),
    "code from data": frozenset(
        {"code", "ctypes", "dill", "importlib", "joblib", "marshal", "pickle", "pkgutil", "runpy", "shelve"}
    ),
    "environment": frozenset(
        {"getpass", "gc", "inspect", "io", "locale", "logging", "os", "pathlib", "platform", "pwd", "resource"}
        | {"shutil", "sqlite3", "sys", "sysconfig", "tempfile", "traceback", "warnings"}
    ),
}
_BUILT_INS: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(("complex", "float", "round"), "float"),
    **dict.fromkeys(("dir", "globals", "locals", "vars"), "order"),
    **dict.fromkeys(("__import__", "compile", "eval", "exec"), "code from data"),
    **dict.fromkeys(("breakpoint", "input", "open", "print"), "environment"),
    **dict.fromkeys(("hash", "id"), "address"),
}
_ATTRIBUTES: Final[Mapping[str, Kind]] = {
    **dict.fromkeys(
        ("cbrt", "cos", "divide", "double", "exp", "exp2", "fft", "frexp", "half", "inf", "ldexp"), "float"
    ),
    **dict.fromkeys(("linalg", "log", "log10", "log2", "longdouble", "nan", "power", "rint", "sin", "single"), "float"),
    **dict.fromkeys(("average", "mean", "reciprocal", "sqrt", "std", "tan", "true_divide", "var"), "float"),
    **dict.fromkeys(("iterdir", "listdir", "rglob", "scandir"), "order"),
    **dict.fromkeys(("monotonic", "now", "perf_counter", "time", "today", "utcnow"), "clock"),
    **dict.fromkeys(("default_rng", "generate", "generate_key", "generate_private_key", "seed"), "randomness"),
    **dict.fromkeys(("choice", "getrandbits", "random", "shuffle", "token_bytes", "urandom", "uuid4"), "randomness"),
    **dict.fromkeys(("open_connection", "open_unix_connection", "sock_connect", "start_server"), "network"),
    **dict.fromkeys(("get_event_loop", "get_running_loop", "new_event_loop", "run_in_executor"), "concurrency"),
    **dict.fromkeys(("environ", "expanduser", "getcwd", "getenv", "getlocale", "setlocale"), "environment"),
    **dict.fromkeys(("read_bytes", "read_text", "write_bytes", "write_text"), "environment"),
}
_ASYNCIO_CLOCKS: Final = {"sleep", "timeout", "timeout_at", "wait_for"}
_ALLOWED_MODULES: Final = {
    *(
        "__future__",
        "abc",
        "asyncio",
        "base64",
        "binascii",
        "bisect",
        "collections",
        "dataclasses",
        "enum",
        "functools",
        "hashlib",
        "hmac",
        "itertools",
        "json",
    ),
    *("blockfl", "cryptography", "fabric_protos", "google", "math", "numpy", "pydantic", "re", "rfc8785", "typing"),
}
"""Whatever else is imported has to be looked at first."""
_EXACT_MATH: Final = {"comb", "factorial", "gcd", "isqrt", "lcm", "perm", "prod"}
_INDIFFERENT: Final = {"all", "any", "frozenset", "len", "max", "min", "set", "sorted", "sum"}
"""What gives the same for a set in whatever order it is gone through (of integers and texts, which is all we have)."""
_FLOAT_TYPES: Final = ("f2", "f4", "f8", "<f2", "<f4", "<f8", "float32", "float64")
_SET_METHODS: Final = {"difference", "intersection", "symmetric_difference", "union"}


@dataclass(frozen=True, order=True)
class Fault:
    """Something that must not be there."""

    function: str
    kind: Kind
    text: str
    line: int


def find_faults(source: str) -> list[Fault]:
    """Return what a module must not contain, if it is to give every endorser the same bytes."""
    tree = ast.parse(source)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    annotations = {id(inner) for node in ast.walk(tree) for said in _annotations(node) for inner in ast.walk(said)}
    faults = []
    for node in ast.walk(tree):
        if id(node) in annotations:
            continue
        for kind, text in (*_imports(node), *_names(node), *_numbers(node), *_orders(node, parents)):
            faults.append(Fault(_function(node, parents), kind, text, getattr(node, "lineno", 0)))
    return sorted(set(faults))


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """Types are for the reader: they compute nothing."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.returns:
        yield node.returns
    elif isinstance(node, ast.arg | ast.AnnAssign) and node.annotation:
        yield node.annotation
    elif isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("npt.NDArray["):
        yield node.value


def _function(node: ast.AST, parents: Mapping[ast.AST, ast.AST]) -> str:
    names = []
    at: ast.AST | None = node
    while at is not None:
        if isinstance(at, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(at.name)
        at = parents.get(at)
    return ".".join(reversed(names))


def _imports(node: ast.AST) -> Iterator[tuple[Kind, str]]:
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and not node.level:
        modules = [f"{node.module}.{alias.name}" for alias in node.names]
    for module in modules:
        first, _, rest = module.partition(".")
        found: list[Kind] = [kind for kind, names in _MODULES.items() if first in names]
        if first not in _ALLOWED_MODULES:
            yield (found or ["import"])[0], f"import {module}"
        if first == "math" and rest and rest not in _EXACT_MATH:
            yield "float", f"import {module}"


def _names(node: ast.AST) -> Iterator[tuple[Kind, str]]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in _BUILT_INS:
        yield _BUILT_INS[node.id], node.id
    elif isinstance(node, ast.Attribute):
        owner = node.value.id if isinstance(node.value, ast.Name) else ""
        if owner == "math":
            if node.attr not in _EXACT_MATH:
                yield "float", f"math.{node.attr}"
        elif owner == "asyncio":
            yield "clock" if node.attr in _ASYNCIO_CLOCKS else "concurrency", ast.unparse(node)
        elif node.attr.startswith(("float", "complex")) and node.attr != "floating":
            yield "float", node.attr
        elif node.attr in _ATTRIBUTES:
            yield _ATTRIBUTES[node.attr], ast.unparse(node)
    elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        yield "code from data", "allow_pickle"


def _numbers(node: ast.AST) -> Iterator[tuple[Kind, str]]:
    if (isinstance(node, ast.Constant) and isinstance(node.value, float | complex)) or (
        isinstance(node, ast.Constant) and node.value in _FLOAT_TYPES
    ):
        yield "float", repr(node.value)
    elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
        yield "float", "a division"
    elif (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and isinstance(node.right, ast.UnaryOp)
        and isinstance(node.right.op, ast.USub)
    ):
        yield "float", "a negative power"


def _orders(node: ast.AST, parents: Mapping[ast.AST, ast.AST]) -> Iterator[tuple[Kind, str]]:
    """Sets, but for where their order cannot show; and what came from outside in the order of its sender."""
    called = node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""
    is_set = isinstance(node, ast.Set | ast.SetComp) or called in ("set", "frozenset")
    is_set = is_set or (isinstance(node, ast.Attribute) and node.attr in _SET_METHODS)
    if is_set and not _is_indifferent(node, parents):
        yield "order", ast.unparse(node)
    if isinstance(node, ast.Attribute) and node.attr in ("transient", "decorations", "TransientMap"):
        parent = parents.get(node)
        if isinstance(parent, ast.For | ast.comprehension | ast.Attribute | ast.Starred):
            yield "order", ast.unparse(node)


def _is_indifferent(node: ast.AST, parents: Mapping[ast.AST, ast.AST]) -> bool:
    """Whether nothing can depend on the order of a set: neither here nor wherever its name is used."""
    parent = parents.get(node)
    while isinstance(parent, ast.BinOp | ast.BoolOp | ast.IfExp | ast.Starred | ast.Set):
        parent = parents.get(parent)
    if isinstance(parent, ast.Compare | ast.If):
        return True
    if isinstance(parent, ast.Attribute) and parent.attr in _SET_METHODS:
        return _is_indifferent(parent, parents)
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Attribute) and parent.func.attr in _SET_METHODS:
        return _is_indifferent(parent, parents)
    if isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in ("frozenset", "set"):
        return _is_indifferent(parent, parents)
    if isinstance(parent, ast.Assign | ast.AnnAssign | ast.NamedExpr):
        target = parent.targets[0] if isinstance(parent, ast.Assign) else parent.target
        return isinstance(target, ast.Name) and all(
            _is_indifferent(use, parents) for use in _uses(target.id, _scope(node, parents))
        )
    return isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in _INDIFFERENT


def _scope(node: ast.AST, parents: Mapping[ast.AST, ast.AST]) -> ast.AST:
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            break
    return node


def _uses(name: str, scope: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Load):
            yield node


# The endorsement path


def list_path(start: str = "blockfl.contract.contract") -> dict[str, Path]:
    """Return every module of ours that the contract imports, itself included, with what they import in turn."""
    found: dict[str, Path] = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        path = _find(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting += list(_list_imported(name, path))
    return found


@cache
def _find(name: str) -> Path | None:
    for room in ("protocol", "fabric", "chaincode"):
        path = ROOT / room / Path(*name.split("."))
        if (path / "__init__.py").exists():
            return path / "__init__.py"
        if path.with_suffix(".py").exists():
            return path.with_suffix(".py")
    return None


def _list_imported(name: str, path: Path) -> Iterator[str]:
    for base, imported, _ in _list_names(name, path, ast.parse(path.read_text())):
        yield base
        yield f"{base}.{imported}"


def _list_names(name: str, path: Path, tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Return of each import the module, the name in it ("" for all of the module), and what it is called here."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", alias.asname or alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((base, alias.name, alias.asname or alias.name) for alias in node.names)


def find_uses(module: str, source: str, guarded: Collection[str]) -> set[tuple[str, str]]:
    """Return what a module imports of guarded ones, as module and name; a whole module or all of its names is "*".

    A name that another module of ours has imported itself is followed to where it is from.
    """
    path = _find(module)
    assert path is not None, module
    uses = {_follow(base, name) for base, name, _ in _list_names(module, path, ast.parse(source))}
    # Whoever has a package has what is in it.
    return {(one, name) for one, name in uses if one in guarded or (name == "*" and _holds(one, guarded))}


def _holds(package: str, guarded: Collection[str]) -> bool:
    return any(one.startswith(f"{package}.") for one in guarded)


def _follow(module: str, name: str) -> tuple[str, str]:
    path = _find(module)
    if name in ("", "*"):
        return module, "*"
    if _find(f"{module}.{name}") is not None:
        return f"{module}.{name}", "*"
    if path is None:
        return module, name
    for base, original in _find_bound(module, path, name):
        if _find(base) is not None:
            return _follow(base, original)
    return module, name


@cache
def _find_bound(module: str, path: Path, name: str) -> list[tuple[str, str]]:
    """Return where a module has a name from, if it is not its own."""
    text = path.read_text()
    names = _list_names(module, path, ast.parse(text)) if name in text else ()
    return [(base, original) for base, original, called in names if called == name]


def list_named(source: str, function: str) -> set[str]:
    """Return every name in a function, and in whatever of its module it names."""
    defined = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    named: set[str] = set()
    waiting = [function]
    while waiting:
        node = defined.pop(waiting.pop(), None)
        for one in ast.walk(node) if node else ():
            if isinstance(one, ast.Name):
                named.add(one.id)
                waiting.append(one.id)
    return named


_AT_START: Final = "runs when the service starts, before any transaction"
_TRANSPORT: Final = "carries messages between peer and contract; what the contract sees is what the peer sent"
_SIGNATURES: Final = "judges signatures for peers and auditors; of its module the contract calls signature_policy only"
_KEYS: Final = "loads keys or makes them; of its module the contract uses Identity only"
_MODELS: Final = "computes models, outside of the contract; every organisation compares the digest"
_TURN: Final = "one transaction at a time opens updates or checks a sum: it bounds memory, and decides nothing"

ELSEWHERE: Final[Mapping[str, str]] = {
    "blockfl.contract.settings": _AT_START,
    "blockfl.protocol.dtype": _MODELS,
    "blockfl.fabric.shim.server": _TRANSPORT,
    "blockfl.fabric.shim.stream": _TRANSPORT,
    "blockfl.fabric.client.endpoint": _TRANSPORT,
    "blockfl.fabric.identity.msp": _SIGNATURES,
    "blockfl.fabric.identity.msp_manager": _SIGNATURES,
    "blockfl.fabric.identity.authority_signature": _SIGNATURES,
    "blockfl.fabric.identity.chain": _SIGNATURES,
    "blockfl.contract.release": _AT_START,
    "blockfl.contract.definition": _AT_START,
    "blockfl.fabric.transaction.chaincode_definition": _AT_START,
    "blockfl.fabric.transaction.package": _AT_START,
}
"""Modules that are imported, but run no part of a transaction."""

PROMISED: Final[Mapping[tuple[str, str], frozenset[str]]] = {
    ("blockfl.contract.contract", "blockfl.contract.settings"): frozenset({"ContractSettings"}),
    ("blockfl.contract.opener", "blockfl.contract.settings"): frozenset({"ContractSettings"}),
    ("blockfl.contract.setup", "blockfl.contract.settings"): frozenset({"ContractSettings"}),
    ("blockfl.contract.state", "blockfl.fabric.identity.policy"): frozenset({"signature_policy"}),
    ("blockfl.contract.authority", "blockfl.fabric.identity.signing"): frozenset({"Identity"}),
    ("blockfl.fabric.shim.contract", "blockfl.fabric.identity.signing"): frozenset({"Identity"}),
    ("blockfl.fabric.identity.policy", "blockfl.fabric.identity.signing"): frozenset({"Identity"}),
    ("blockfl.fabric.identity.policy", "blockfl.fabric.identity.msp_manager"): frozenset({"MspManager"}),
    ("blockfl.protocol.manifest", "blockfl.protocol.dtype"): frozenset({"DtypeName"}),
    ("blockfl.protocol.sums", "blockfl.protocol.dtype"): frozenset({"Vector"}),
    ("blockfl.fabric.shim", "blockfl.fabric.shim.server"): frozenset({"ContractServer", "ServerTls"}),
}
"""What a module of the path may take of those above, or of those with an exception for all that they hold, by name."""
GUARDED: Final = frozenset({*ELSEWHERE, "blockfl.fabric.identity.signing", "blockfl.fabric.identity.policy"})

EXCEPTIONS: Final[Mapping[tuple[str, str, Kind], str]] = {
    (
        "blockfl.protocol.ring",
        "",
        "float",
    ): "the FFT of the commitments: its error is proven, and checked as it runs, to "
    "be less than one half, so that the integers it is rounded to are exact",
    ("blockfl.protocol.tally", "make_tally_manifest", "float"): "the name of a type; no number is one",
    ("blockfl.protocol.catalogue", "", "order"): "the module's own declarations, as they stand in it",
    ("blockfl.protocol.sums", "compute_means", "float"): _MODELS,
    ("blockfl.protocol.sums", "require_ieee_subnormals", "float"): _MODELS,
    ("blockfl.protocol.sums", "_survives_halving", "float"): _MODELS,
    ("blockfl.contract.opener", "Opener.__init__", "concurrency"): _TURN,
    ("blockfl.contract.verifier", "SumVerifier.__init__", "concurrency"): _TURN,
    ("blockfl.fabric.shim.contract", "Context.__init__", "concurrency"): "requests to the peer go one after the other",
    ("blockfl.fabric.identity.signing", "", "clock"): _KEYS,
    ("blockfl.fabric.identity.signing", "", "environment"): _KEYS,
    ("blockfl.fabric.identity.signing", "create_private_key", "randomness"): _KEYS,
    ("blockfl.fabric.errors", "", "network"): "the names of gRPC's statuses, for clients",
    ("blockfl.fabric.encoding.der", "", "clock"): "whether a written time is one of the calendar; no clock is read",
    ("blockfl.fabric.encoding.address", "", "import"): "whether a text is an IP address; nothing is sent",
    ("blockfl.fabric.encoding.uri", "", "import"): "whether a text is an IP address; nothing is sent",
}
"""By module, function ("": the whole module) and kind: what may be there all the same, and why."""

NOT_CALLED: Final = (
    "compute_means",
    "require_ieee_subnormals",
    "create_private_key",
    "check_not_expired",
    "load_private_key",
)
"""Excepted functions, which for that reason no module of the path may name but their own."""

MODELS: Final = tuple(
    f"blockfl.protocol.{name}" for name in ("digits", "model", "proposal", "quantise", "statistics", "version")
)
"""What computes with floats on purpose, and must not be on the path."""


def is_excepted(module: str, fault: Fault) -> tuple[str, str, Kind] | None:
    """Return the exception that covers a fault, None if there is none."""
    for function in (fault.function, ""):
        if (module, function, fault.kind) in EXCEPTIONS:
            return module, function, fault.kind
    return None
