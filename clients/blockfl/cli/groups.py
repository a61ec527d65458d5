"""The groups of the ``blockfl`` command, each of which is imported when one of its commands runs.

Half of a short command's time would be the import of groups that it does not need.
"""

import gc
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Final

import typer
from typer.core import TyperGroup

GROUPS: Final = {
    "network": "Bring a consortium's network up, look at it, take it down.",
    "task": "Create federated tasks and look at them.",
    "institution": "Run the agent beside an institution's data.",
    "aggregator": "Run a committee member's process.",
    "audit": "Query the ledger and prove what happened.",
}
SIMULATE: Final = "simulate"


class _Commands(Mapping[str, Any]):
    """The commands by name; each one comes with its module when it is asked for."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise KeyError(name)
        if name not in self._loaded:
            self._loaded[name] = _load(name)
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in GROUPS or name == SIMULATE

    def __iter__(self) -> Iterator[str]:
        return iter((SIMULATE, *GROUPS))

    def __len__(self) -> int:
        return len(GROUPS) + 1


class Groups(TyperGroup):
    """The ``blockfl`` command itself."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands()  # type: ignore[assignment]


def _load(name: str) -> Any:
    gc.disable()  # what is imported stays: nothing of it need be looked at again and again
    try:
        module = import_module(f"blockfl.cli.{name}")
        gc.freeze()
    finally:
        gc.enable()
    if name == SIMULATE:
        alone = typer.Typer()
        alone.command(name)(module.simulate)
        return typer.main.get_command(alone)
    holder = typer.Typer(no_args_is_help=True)
    holder.add_typer(module.app, name=name, help=GROUPS[name])
    group: Any = typer.main.get_command(holder)
    return group.commands[name]
