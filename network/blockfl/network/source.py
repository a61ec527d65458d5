"""YAML text whose faults are named with their line."""

import re
from collections.abc import Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from blockfl.ledger.plain_yaml import PlainLoader, compose
from blockfl.network.errors import DescriptionError

Place = tuple[int | str, ...]
"""Where in nested mappings and lists: keys and positions from the outside in."""


class Fault(ValueError):
    """What is wrong with a description, and where."""

    def __init__(self, place: Place, reason: str) -> None:
        super().__init__(reason)
        self.place = place


class _Loader(PlainLoader):
    """Plain YAML, in which whole numbers, truth values and nothing are themselves."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?i:true|false|yes|no|on|off)\Z"), list("tfynoTFYNO")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"-?(?:0|[1-9][0-9]{0,17})\Z"), list("-0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"(?:~|(?i:null)|)\Z"), ["~", "n", "N", ""])


class YamlSource:
    """A YAML text of one mapping.

    Args:
        text: The text.
        name: What errors call it: usually the file's path.

    Raises:
        DescriptionError: It is not YAML, no mapping, or has a key twice.
    """

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        try:
            loader = _Loader(text)
            self._root = compose(loader)
            content = loader.construct_document(self._root) if self._root else None
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise DescriptionError(f"{name}, line {line}: {error.problem}") from error
        except yaml.YAMLError as error:
            raise DescriptionError(f"{name}: this is not YAML: {error}") from error
        if not isinstance(content, dict):
            raise DescriptionError(f"{name}, line 1: expected a mapping with network, channel, organisations, …")
        self.content: dict[str, Any] = content

    def error(self, place: Place, reason: str) -> DescriptionError:
        """Return the error for a place, with its line."""
        named = ".".join(str(part) for part in place)
        return DescriptionError(f"{self.name}, line {self._line(place)}: {named + ': ' if named else ''}{reason}")

    def explain(self, error: ValidationError, model: type[BaseModel]) -> DescriptionError:
        """Return the error for the first thing that a model refuses, in words for the file's author."""
        first = error.errors(include_url=False)[0]
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, Fault):
            return self.error(cause.place, str(cause))
        return self.error(first["loc"], _reason(first, model))

    def _line(self, place: Place) -> int:
        """Return the line of the innermost part of a place that the text holds."""
        node = self._root
        line = node.start_mark.line + 1 if node else 1
        for part in place:
            found = _child(node, part)
            if found is None:
                break
            mark, node = found
            line = mark.start_mark.line + 1
        return line


def _child(node: yaml.Node | None, part: int | str) -> tuple[yaml.Node, yaml.Node] | None:
    """Return where a part of a mapping or list begins, and what is there."""
    if isinstance(node, yaml.MappingNode):
        return next(((key, value) for key, value in node.value if key.value == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def _reason(first: ErrorDetails, model: type[BaseModel]) -> str:
    """Return what was expected, got, and what to do."""
    given = first["input"]
    match first["type"]:
        case "extra_forbidden":
            return f"unknown key; known here are {', '.join(_known(model, first['loc']))}"
        case "missing":
            return "is missing"
        case "string_pattern_mismatch":
            return (
                "expected a name of 2 to 32 lower-case letters, digits and dashes that begins with a letter and does "
                f"not end with a dash, got {given!r}"
            )
        case "literal_error":
            return f"expected {first['ctx']['expected']}, got {given!r}"
        case _:
            text = first["msg"].removeprefix("Value error, ").removeprefix("Input ")
            return f"{text}, got {given!r}" if isinstance(given, str | int | float | bool) else text


def _known(model: type[BaseModel], place: Sequence[int | str]) -> list[str]:
    """Return the keys that the mapping at a place may have."""
    for part in place[:-1]:
        if isinstance(part, str):
            model = _inner(model.model_fields[part].annotation)
    return list(model.model_fields)


def _inner(annotation: Any) -> type[BaseModel]:
    """Return the model that a field holds, or that its list holds."""
    arguments = getattr(annotation, "__args__", ())
    return _inner(arguments[0]) if arguments else annotation
