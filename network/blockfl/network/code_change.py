"""Code of the contract that is not the network's: shown, agreed to by its name, and never brought into force unasked.

A network's directory keeps the packages that were in force before, so that going back is noticed.

Example:
    agree_on_code(layout.package, "blockfl", Agreement(upgrade="2-5f0c…"))
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Final, Self

from blockfl.contract.release import describe_change, package_release, read_packaged_release, read_release
from blockfl.fabric.errors import FabricError
from blockfl.fabric.transaction.package import package_id
from blockfl.network.errors import NetworkError
from blockfl.network.identities import write_file
from blockfl.protocol.codes import ProtocolError

FORMER: Final = "former-contracts"
"""The directory beside the package that has those which were in force before it."""
_SHOWN: Final = 12


@dataclass(frozen=True, kw_only=True)
class CodeChange:
    """From the code of a network to the code that lies here.

    Attributes:
        before: What the definition calls the network's code.
        after: What it would call this one.
        differences: A line for each file and distribution that differs.
        goes_back: Whether this one was in force before, or is an older version.
    """

    before: str
    after: str
    differences: tuple[str, ...]
    goes_back: bool

    @classmethod
    def between(cls, before: str, reason: str, was_in_force: bool) -> Self:
        """Return the change from code of which only the name is known.

        Args:
            before: Its name.
            reason: Why not more is known.
            was_in_force: Whether the code that lies here has been in force before.
        """
        own, version = read_release(), before.partition("-")[0]
        older = version.isdecimal() and int(own.version) < int(version)
        return cls(before=before, after=own.name, differences=(reason,), goes_back=older or was_in_force)

    def describe(self) -> str:
        """Return it in a few lines."""
        lines = [f"the contract's code is {self.before}, and would become {self.after}:", *self.differences[:_SHOWN]]
        if len(self.differences) > _SHOWN:
            lines.append(f"… {len(self.differences) - _SHOWN} more")
        return "\n  ".join(lines)


def _nobody(change: CodeChange) -> bool:  # noqa: ARG001
    return False


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """What the operator agrees to.

    Attributes:
        upgrade: Name of the code that may take the place of the network's.
        downgrade: Likewise, also where that means to go back.
        ask: Asks a person who is there; not asked about going back.
    """

    upgrade: str = ""
    downgrade: str = ""
    ask: Callable[[CodeChange], bool] = field(default=_nobody)

    def covers(self, change: CodeChange) -> bool:
        """Whether a change is agreed to."""
        if change.after == self.downgrade:
            return True
        return not change.goes_back and (change.after == self.upgrade or self.ask(change))

    def remember(self) -> Self:
        """Return the same, asking a person only once about one change: several organisations may make it."""
        return replace(self, ask=cache(self.ask))

    def require(self, change: CodeChange) -> None:
        """Check that a change is agreed to.

        Raises:
            NetworkError: It is not; with what it changes and how to agree.
        """
        if self.covers(change):
            return
        option = "downgrade" if change.goes_back else "upgrade"
        warning = "; it was in force before, or is older" if change.goes_back else ""
        raise NetworkError(
            f"{change.describe()}\nnothing was changed{warning}. To bring it into force: blockfl network up --{option} "
            f"{change.after} (in containers: BLOCKFL_{option.upper()}={change.after} in .env); to go on with "
            f"{change.before}: install the release that has it (`blockfl --version` tells)"
        )


def agree_on_code(package: Path, contract: str, agreement: Agreement) -> None:
    """Check that a network's package is the code that lies here, or may become it.

    Args:
        package: The network's package; it is kept among the former ones if it may be replaced.
        contract: The contract's name.
        agreement: What the operator agrees to.

    Raises:
        NetworkError: The code is another, and that is not agreed to.
    """
    try:
        here = package.read_bytes()
    except FileNotFoundError:
        return
    except OSError as error:
        raise NetworkError(f"{package}: cannot be read ({error.strerror})") from error
    if here == package_release(contract, read_release()):
        return
    change = compare_code(here, was_in_force=_former(package, contract, read_release().name).exists())
    agreement.require(change)
    if change.goes_back:
        _former(package, contract, change.after).unlink(missing_ok=True)
    else:
        write_file(_former(package, contract, change.before), here)


def agree_on_succession(package: Path, contract: str, in_force: str, agreement: Agreement) -> None:
    """Check that the code that lies here may follow the one in force on the ledger.

    It may where the network's directory has had that one, too: then it was agreed to when the package was replaced.

    Args:
        package: The network's package.
        contract: The contract's name.
        in_force: What the definition in force calls its code.
        agreement: What the operator agrees to.

    Raises:
        NetworkError: Others have brought this code into force, and to replace it is not agreed to.
    """
    if in_force == read_release().name or _former(package, contract, in_force).exists():
        return
    reason = "the code in force was never in this directory: others have approved it"
    agreement.require(CodeChange.between(in_force, reason, was_in_force=False))


def compare_code(package: bytes, *, was_in_force: bool) -> CodeChange:
    """Compare the code of a package with the code that lies here.

    Args:
        package: The package.
        was_in_force: Whether the code that lies here has been in force before.
    """
    own = read_release()
    try:
        before = read_packaged_release(package)
    except (FabricError, ProtocolError) as error:
        return CodeChange.between(_read_name(package), f"its package does not say what it holds: {error}", was_in_force)
    return CodeChange(
        before=before.name,
        after=own.name,
        differences=tuple(describe_change(before, own)),
        goes_back=was_in_force or int(own.version) < int(before.version),
    )


def _read_name(package: bytes) -> str:
    try:
        return package_id(package).partition(":")[0].rpartition("_")[2]
    except FabricError:
        return "unknown"


def _former(package: Path, contract: str, name: str) -> Path:
    return package.with_name(FORMER) / f"{contract}_{name}.tar.gz"
