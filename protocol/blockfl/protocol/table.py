"""The columns that every institution's table has: their names, order, kinds, units and allowed values, and the label's.

A task says them once, and each institution's table is matched by name and turned into the model's inputs by the same
arithmetic. Nothing is fitted at an institution: fills, centres and scales are the task's.

    table = Table(columns=(Column(name="age", kind="number"),), label=Column(name="sick", kind="ordinal", values=...))
    table.width                                                           # the model's number of inputs

Source: ``docs/protocol.md``, columns.
"""

from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from blockfl.protocol.canonical import MAX_INTEGER, Record

MAX_COLUMNS: Final = 4096
MAX_VALUES: Final = 1000
_MICRO: Final = 10**6

Kind = Literal["number", "ordinal", "category"]
Word = Annotated[str, StringConstraints(max_length=100)]
Micro = Annotated[int, Field(ge=-MAX_INTEGER, le=MAX_INTEGER)]
Optional = Annotated[Micro | None, Field(exclude_if=lambda value: value is None)]


class Column(Record):
    """One column of a table.

    A ``number`` becomes one input, ``(value - center) / scale``; a missing cell becomes ``missing_micro`` first, if
    there is one. An ``ordinal`` becomes one input, the position of its value in ``values``. A ``category`` becomes one
    input for each of ``values``, of which one is 1. Numbers are in millionths; ``minimum_micro`` and ``maximum_micro``
    are the least and the greatest that is allowed. An empty word among ``values`` stands for a missing cell.
    """

    name: Annotated[Word, StringConstraints(min_length=1)]
    kind: Kind
    unit: Annotated[Word, Field(exclude_if=lambda unit: not unit)] = ""
    values: Annotated[tuple[Word, ...], Field(max_length=MAX_VALUES, exclude_if=lambda values: not values)] = ()
    minimum_micro: Optional = None
    maximum_micro: Optional = None
    missing_micro: Optional = None
    center_micro: Annotated[Micro, Field(exclude_if=lambda center: center == 0)] = 0
    scale_micro: Annotated[int, Field(ge=1, le=MAX_INTEGER, exclude_if=lambda scale: scale == _MICRO)] = _MICRO

    @property
    def width(self) -> int:
        """How many inputs of the model it becomes."""
        return len(self.values) if self.kind == "category" else 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        for word in (self.name, self.unit, *self.values):
            if not word.isprintable() or word != word.strip():
                raise ValueError(f"{word!r}: expected printable words without blanks at the ends")
        if self.kind == "number":
            if self.values:
                raise ValueError(f"column {self.name} is a number and has no list of values")
            low, high = self.minimum_micro, self.maximum_micro
            if low is not None and high is not None and low > high:
                raise ValueError(f"column {self.name}: the minimum is over the maximum")
            return self
        if len(self.values) < 2 or len(set(self.values)) < len(self.values):
            raise ValueError(f"column {self.name}: expected at least two values, each once")
        numbers = (self.minimum_micro, self.maximum_micro, self.missing_micro, self.center_micro or None)
        if any(number is not None for number in numbers) or self.scale_micro != _MICRO:
            raise ValueError(f"column {self.name} has values: it has no minimum, maximum, missing, center and scale")
        return self


class Table(Record):
    """The columns that become the model's inputs, in its order, and the label's.

    The label is an ``ordinal``, whose values are the classes, or a ``number``.
    """

    columns: Annotated[tuple[Column, ...], Field(min_length=1, max_length=MAX_COLUMNS)]
    label: Column

    @property
    def names(self) -> tuple[str, ...]:
        """The columns' names in the model's order, and the label's last."""
        return (*(column.name for column in self.columns), self.label.name)

    @property
    def width(self) -> int:
        """The model's number of inputs."""
        return sum(column.width for column in self.columns)

    @property
    def classes(self) -> tuple[str, ...]:
        """The label's classes, numbered from 0; none when it is a number."""
        return self.label.values

    @model_validator(mode="after")
    def _check(self) -> Self:
        seen: dict[str, None] = {}
        for name in self.names:
            if name in seen:
                raise ValueError(f"column {name} is named twice")
            seen[name] = None
        if self.label.kind == "category":
            raise ValueError(f"the label {self.label.name} is a category: classes are ordinal, numbered from 0")
        return self
