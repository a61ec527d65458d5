"""Which ledger runs in a network's directory, and how: ``network.json``."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blockfl.network.description import LedgerKind
from blockfl.network.identities import write_file


class NetworkState(BaseModel):
    """What is remembered of a network besides its description.

    Attributes:
        ledger: Which ledger runs it.
        project: Name of its Compose project, "" for one of the directory's own.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    ledger: LedgerKind
    project: Annotated[str, Field(pattern=r"^([a-z0-9][a-z0-9_-]*)?$", max_length=200)] = ""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one from its file.

        Raises:
            OSError: There is none.
            ValueError: The file holds something else; naming the field.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"{path}: {place or 'not JSON'}: {first['msg']}") from error

    def save(self, path: Path) -> None:
        """Write it to its file; a write that is cut short leaves the old state."""
        write_file(path, f"{self.model_dump_json(exclude_defaults=True)}\n".encode())
