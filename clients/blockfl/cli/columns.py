"""A task's columns as people write them: a YAML file with the names, kinds, units and allowed values of a table.

    label: {name: sick, classes: [healthy, sick]}
    columns:
      - chol
      - {name: age, unit: years, minimum: 18, maximum: 110, center: 54, scale: 9}
      - {name: sex, values: [female, male]}                      # one input: 0 or 1
      - {name: pain, categories: [typical, atypical, none, ""]}  # one input each; "" stands for a missing cell
      - {name: sugar, missing: 1.2}

``blockfl task columns TABLE… --label sick`` drafts one from tables.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, overload

import numpy as np
import typer
import yaml
from pydantic import ValidationError

from blockfl.cli.class_weights import describe_balance
from blockfl.cli.number import MICRO, make_limits, parse_micro
from blockfl.cli.output import Output
from blockfl.institution.errors import DataError
from blockfl.institution.table import MISSING, Cells, list_words, read_number, read_table
from blockfl.ledger.errors import LedgerError
from blockfl.ledger.plain_yaml import read_words
from blockfl.protocol.table import Column, Table

Columns = Annotated[
    Path | None,
    typer.Option(
        "--columns", help="YAML with every table's columns and the label's classes; see blockfl task columns."
    ),
]
_NUMBERS: Final = ("minimum", "maximum", "missing", "center", "scale")
_LISTS: Final = {"values": "ordinal", "classes": "ordinal", "categories": "category"}
_LIMITS: Final = make_limits(-(10**9), 10**9)
_MAX_CLASSES: Final = 20
_MAX_CATEGORIES: Final = 50


@overload
def read_columns(path: Path) -> Table: ...
@overload
def read_columns(path: Path | None) -> Table | None: ...
def read_columns(path: Path | None) -> Table | None:
    """Return the columns that a file says; None without a file.

    Raises:
        LedgerError: It cannot be read, or no table can have such columns.
    """
    if path is None:
        return None
    found = read_words(path)  # no and yes are values, too
    if not isinstance(found, dict) or set(found) != {"columns", "label"} or not isinstance(found["columns"], list):
        raise LedgerError(f"{path}: expected a list named columns, and one column named label")
    columns = tuple(_parse(path, one) for one in found["columns"])
    try:
        return Table(columns=columns, label=_parse(path, found["label"]))
    except ValidationError as error:
        raise LedgerError(f"{path}: {_explain(error)}") from error


def format_columns(table: Table) -> str:
    """Return the file that says these columns."""
    label, columns = _format(table.label), [_format(column) for column in table.columns]
    if table.classes:
        label["classes"] = label.pop("values")
    return yaml.safe_dump({"label": label, "columns": columns}, sort_keys=False, allow_unicode=True)


def _format(column: Column) -> dict[str, Any]:
    given: dict[str, Any] = {"name": column.name}
    if column.unit:
        given["unit"] = column.unit
    if column.kind != "number":
        given["categories" if column.kind == "category" else "values"] = list(column.values)
        return given
    numbers = {key: getattr(column, f"{key}_micro") for key in _NUMBERS}
    plain = {"center": 0, "scale": MICRO}
    return given | {key: one / MICRO for key, one in numbers.items() if one is not None and one != plain.get(key)}


def _parse(path: Path, given: Any) -> Column:
    if isinstance(given, str):
        given = {"name": given}
    name = given.get("name") if isinstance(given, Mapping) else None
    if not isinstance(name, str):
        raise LedgerError(f"{path}: expected a column's name, or a mapping with one, got {given!r:.100}")
    where = f"{path}: column {name}"
    fields: dict[str, Any] = {"name": name, "kind": "number"}
    for key, value in given.items():
        if key in _NUMBERS and isinstance(value, str):
            fields[f"{key}_micro"] = parse_micro(f"{where}: {key}", value, _LIMITS)
        elif key in _LISTS and isinstance(value, list) and all(isinstance(one, str) for one in value):
            fields |= {"kind": _LISTS[key], "values": tuple(value)}
        elif key == "unit" and isinstance(value, str):
            fields["unit"] = value
        elif key != "name":
            known = ", ".join(("name", "unit", *_LISTS, *_NUMBERS))
            raise LedgerError(f"{where}: {key}: expected one of {known}, got {value!r:.100}")
    try:
        return Column.model_validate(fields)
    except ValidationError as error:
        raise LedgerError(f"{where}: {_explain(error)}") from error


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")


def join_tables(tables: Sequence[Cells]) -> Cells:
    """Return the rows of several tables below one another, in the order of the first one's columns.

    Raises:
        DataError: They have not the same columns.
    """
    first = tables[0]
    for other in tables[1:]:
        if set(other.header) != set(first.header):
            raise DataError(
                f"{other.path} and {first.path} have not the same columns: rename or remove what differs; only "
                f"{other.path} has {list_words(set(other.header) - set(first.header))}; only {first.path} has "
                f"{list_words(set(first.header) - set(other.header))}"
            )
    rows = {name: [cell for one in tables for cell in one.get(name)] for name in first.header}
    lines = [line for one in tables for line in one.lines]
    return Cells(path=first.path, header=first.header, columns=tuple(rows.values()), lines=lines)


def draft_columns(cells: Cells, label: str) -> str:
    """Return a draft of a task's columns for a table, as YAML: to be read, corrected and agreed on.

    Raises:
        DataError: There is no such label.
    """
    if label not in cells.header:
        raise DataError(f"{cells.path}: no column {label!r}; there are: {', '.join(cells.header) or 'none'}")
    columns = [_draft(name, cells.get(name)) for name in cells.header if name != label]
    return yaml.safe_dump(
        {"label": _draft_label(label, cells.get(label)), "columns": columns}, sort_keys=False, allow_unicode=True
    )


def _draft_label(name: str, texts: Any) -> dict[str, Any]:
    values = sorted({text.strip() for text in texts}, key=_order)
    numbers = [read_number(value) for value in values]
    if len(values) > _MAX_CLASSES or (np.isfinite(numbers).all() and not all(one == int(one) for one in numbers)):
        return {"name": name}
    return {"name": name, "classes": values}


def _draft(name: str, texts: Any) -> dict[str, Any]:
    words = [text.strip() for text in texts]
    present = [word for word in words if word.lower() not in MISSING]
    numbers = np.array([read_number(word) for word in present], dtype=np.float64)
    if np.isfinite(numbers).all() and len(numbers):
        drafted = {"name": name, "center": _round(numbers.mean()), "scale": max(_round(numbers.std()), 1 / MICRO)}
        if len(present) < len(words):
            drafted["missing"] = _round(np.median(numbers))
        return drafted
    values = sorted(set(present), key=_order)
    if len(values) > _MAX_CATEGORIES:
        raise DataError(
            f"column {name!r} has {len(values)} different texts: it names rows more than it describes them; remove it "
            "from the table, or encode it as a number"
        )
    if len(present) < len(words):
        values.append("")
    return {"name": name, "values" if len(values) == 2 else "categories": values}


def _order(word: str) -> tuple[float, str]:
    number = read_number(word)
    return (number if np.isfinite(number) else np.inf, word)


def _round(value: Any) -> float:
    return float(f"{float(value):.4g}")


def columns(
    tables: Annotated[
        list[Path],
        typer.Argument(metavar="TABLE…", help="A table like those of the institutions, .csv or .parquet; or several."),
    ],
    label: Annotated[str, typer.Option(help="The label's column.")],
) -> None:
    """Draft a task's columns from tables: to be corrected, and given to task create --columns.

    Centres, scales, fills and values are those of these tables. Everybody who reads the ledger sees them. A table that
    is not among them may have other values or missing cells: add them, the empty word "" for a missing cell.
    """
    cells = join_tables([_read(path) for path in tables])
    draft = draft_columns(cells, label)
    typer.echo(draft, nl=False)
    output = Output(as_json=False)
    for line in (*describe_draft(draft), *describe_classes(draft, cells.get(label))):
        output.progress(line)


def describe_draft(draft: str) -> list[str]:
    """Return what the columns of a draft mean for the model, in words."""
    found = yaml.safe_load(draft)
    width = sum(len(one.get("categories", ("",))) for one in found["columns"])
    lines = [f"these columns make {width} inputs of the model: keras.Input(({width},))"]
    classes = found["label"].get("classes", ())
    if classes:
        meanings = ", ".join(f"{number} is {name}" for number, name in enumerate(classes))
        lines.append(
            f"the model's classes are in the order of the list: {meanings}; exchange them there if you mean it so"
        )
    return lines


def describe_classes(draft: str, labels: Sequence[str]) -> list[str]:
    """Return how to weigh the classes of a draft where their rows are far from even, in words; none where not."""
    label = yaml.safe_load(draft)["label"]
    counts = Counter(cell.strip() for cell in labels)
    balance = describe_balance({str(name): counts[str(name)] for name in label.get("classes", ())})
    return [balance] if balance else []


def _read(path: Path) -> Cells:
    try:
        return read_table(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
