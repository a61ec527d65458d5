"""What commands print: tables and progress for people, JSON for machines, one line for an error."""

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text

from blockfl.fabric.log import make_printable

_PIPE_WIDTH = 250
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Source: OWASP, CSV injection."""


class Exit(IntEnum):
    """Exit codes of every command (2 is a usage error)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_VERIFIED = 3
    FINDINGS = 4
    NOTHING_CONTRIBUTED = 5


class Output:
    """Standard output for results, standard error for progress and errors."""

    def __init__(self, *, as_json: bool, as_csv: bool = False) -> None:
        self.as_json = as_json
        self.as_csv = as_csv
        # Into a file or a pipe, rows stay whole.
        self._console = _make_console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
        self._errors = _make_console(stderr=True)

    def result(self, value: object) -> None:
        """Print a machine-readable result, when JSON is wanted."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, indent=2, sort_keys=True) + "\n")

    def table(self, title: str, rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> None:
        """Print rows: as a table, as a JSON list with every column, or as CSV with those of the table."""
        if self.as_json:
            self.result(list(rows))
            return
        if self.as_csv:
            writer = csv.writer(sys.stdout)
            writer.writerow(columns)
            writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)
            return
        # Text, for a str in a table is markup whatever its console is told.
        table = Table(title=Text(make_printable(title)), title_justify="left")
        for column in columns:
            table.add_column(Text(column.replace("_", " ")), overflow="fold")
        for row in rows:
            table.add_row(*(Text(_cell(row.get(column))) for column in columns))
        self._console.print(table)

    def line(self, text: str) -> None:
        """Print a line for people."""
        if not self.as_json:
            self._console.print(make_printable(text))

    def progress(self, text: str) -> None:
        """Print a line of progress, to standard error."""
        self._errors.print(make_printable(text))

    def error(self, text: str) -> None:
        """Print an error."""
        self._errors.print(f"error: {make_printable(text)}", style="red")


def _make_console(*, width: int | None = None, stderr: bool = False) -> Console:
    """Return a console for which nothing is markup: names and titles are other people's words."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False, width=width, stderr=stderr)


def _csv_cell(value: object) -> str:
    """A cell that no spreadsheet takes for a formula: names and titles are other people's words."""
    text = _cell(value)
    return f"'{text}" if text.startswith(_FORMULA) and not isinstance(value, int | float) else text


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return make_printable(", ".join(_cell(part) for part in value))
    if isinstance(value, dict):
        return make_printable(" ".join(_cell(part) for part in value.values()))
    return make_printable(str(value))
