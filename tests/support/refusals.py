"""Which codes a function can refuse with: read off the syntax of the function and of everything that it calls.

A code counts where it stands in a function, but for comparisons and texts. Calls are followed by name: functions and
classes of the caller's module, its modules' functions, and methods of the classes that the caller's module knows.
A record that is read must be there, or the code of its kind is raised. What a ``try`` catches does not get out, unless
its handler raises it again. What is counted and cannot come about is listed with its reason where this is used.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator
from functools import cached_property
from types import ModuleType
from typing import Any, Final

from blockfl.protocol.codes import Code, ProtocolError
from blockfl.protocol.key import RecordType
from blockfl.protocol.rule import Rule, find_breach, require

PACKAGES: Final = ("blockfl.contract", "blockfl.protocol")
Function = Callable[..., Any]


def list_refusals(function: Function) -> frozenset[Code]:
    """Return the codes that a function, or what it calls, may raise."""
    return _Search().search(inspect.unwrap(function))


class _Search:
    def __init__(self) -> None:
        self._known: dict[Function, frozenset[Code]] = {}

    def search(self, function: Function) -> frozenset[Code]:
        plain = getattr(function, "__func__", function)
        if plain not in self._known:
            # A function that calls itself adds nothing by that.
            self._known[plain] = frozenset()
            tree = ast.parse(textwrap.dedent(inspect.getsource(plain)))
            self._known[plain] = frozenset(self._visit(tree.body, plain))
        return self._known[plain]

    def _visit(self, nodes: list[Any], function: Function) -> set[Code]:
        found: set[Code] = set()
        for node in nodes:
            if isinstance(node, ast.Try):
                found |= self._visit_try(node, function)
                continue
            if isinstance(node, ast.Compare | ast.JoinedStr):
                # A code that is compared or told is not raised; what is called to do so may refuse.
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Call):
                        found |= self._visit_call(inner, function)
                continue
            if isinstance(node, ast.Attribute):
                code = _resolve(node, function)
                if isinstance(code, Code):
                    found.add(code)
                    continue
                if isinstance(node.value, ast.Attribute) and isinstance(_resolve(node.value, function), Code):
                    continue
                found |= self._visit_property(node, function)
            if isinstance(node, ast.Call):
                found |= self._visit_call(node, function)
            found |= self._visit(list(ast.iter_child_nodes(node)), function)
        return found

    def _visit_try(self, node: ast.Try, function: Function) -> set[Code]:
        found = self._visit([*node.body, *node.orelse], function)
        for handler in node.handlers:
            if handler.type is not None and _resolve(handler.type, function) is ProtocolError:
                found &= _list_raised_again(handler, function, found)
            found |= self._visit(list(handler.body), function)
        return found | self._visit(list(node.finalbody), function)

    def _visit_call(self, node: ast.Call, function: Function) -> set[Code]:
        if record := _find_read_record(node, function):
            return set() if record.absent else {record.missing}
        target = _resolve(node.func, function)
        if target in (find_breach, require):
            return self._visit_rules(_resolve(node.args[0], function), required=target is require)
        if target is not None:
            return set().union(*(self.search(one) for one in _list_run(target)))
        if isinstance(node.func, ast.Attribute):
            methods = _find_methods(node.func.attr, function)
            return set().union(*(self.search(one) for one in methods))
        return set()

    def _visit_rules(self, rules: tuple[Rule[Any], ...], *, required: bool) -> set[Code]:
        """What the checks of a table may refuse with; what its rules reject with is a refusal if they are required."""
        codes = {one.code for one in rules} if required else set()
        return codes.union(*(self.search(one.check) for one in rules))

    def _visit_property(self, node: ast.Attribute, function: Function) -> set[Code]:
        found = [getattr(one, node.attr, None) for one in _list_classes(function)]
        getters = [one.fget for one in found if isinstance(one, property) and one.fget]
        getters += [one.func for one in found if isinstance(one, cached_property)]
        return set().union(*(self.search(one) for one in getters))


def _find_read_record(node: ast.Call, function: Function) -> RecordType[..., Any] | None:
    """Return the kind of record that must be there where ``state.read(KIND.key(...))`` is called, else None."""
    if not (isinstance(node.func, ast.Attribute) and node.func.attr == "read" and node.args):
        return None
    key = node.args[0]
    if not (isinstance(key, ast.Call) and isinstance(key.func, ast.Attribute) and key.func.attr == "key"):
        raise ValueError(f"{function.__qualname__}: write state.read(KIND.key(...)), so that its code can be told")
    record = _resolve(key.func.value, function)
    assert isinstance(record, RecordType)
    return record


def _resolve(node: ast.AST, function: Function) -> Any:
    """Return what a dotted name stands for in a function's module, None if that is not known."""
    if isinstance(node, ast.Name):
        return _globals(function).get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _resolve(node.value, function)
        if isinstance(owner, ModuleType | type):
            return getattr(owner, node.attr, None)
    return None


def _list_run(target: Any) -> Iterator[Function]:
    """What a call of a function, method or class runs; nothing of other packages."""
    if not str(getattr(target, "__module__", "")).startswith(PACKAGES):
        return
    if isinstance(target, type):
        made = (target.__dict__.get("__init__"), target.__dict__.get("__post_init__"))
        yield from (one for one in made if one and not _is_generated(one))
    elif inspect.isroutine(target):
        yield inspect.unwrap(target)


def _is_generated(function: Function) -> bool:
    """Whether there is no source: what dataclasses make."""
    return str(function.__code__.co_filename).startswith("<")


def _find_methods(name: str, function: Function) -> list[Function]:
    found = [one.__dict__.get(name) for one in _list_classes(function)]
    routines: list[Any] = [one for one in found if inspect.isroutine(one) or isinstance(one, classmethod)]
    return [getattr(one, "__func__", one) for one in routines]


def _list_classes(function: Function) -> list[type]:
    """The classes of ours that a function's module knows, bases included."""
    known = [one for one in _globals(function).values() if isinstance(one, type)]
    ours = {base for one in known for base in one.__mro__ if base.__module__.startswith(PACKAGES)}
    return sorted(ours - {ProtocolError, Code}, key=lambda one: one.__qualname__)


def _globals(function: Function) -> dict[str, Any]:
    names: dict[str, Any] = function.__globals__
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return names | {name: cell.cell_contents for name, cell in cells}


def _list_raised_again(handler: ast.ExceptHandler, function: Function, caught: set[Code]) -> set[Code]:
    """Which of the caught codes a handler raises again: those of a constant that it compares with, or all."""
    for node in ast.walk(handler):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
            named = _resolve(node.test.comparators[0], function)
            if isinstance(named, tuple) and any(isinstance(one, ast.Raise) for one in node.body):
                return set(named)
    return caught if any(isinstance(one, ast.Raise) and one.exc is None for one in handler.body) else set()
