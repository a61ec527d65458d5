"""Landlock through its three system calls: the process may only touch named paths, and no TCP port.

A restriction holds for the calling thread and all that it starts, for ever, root included.

Source: Linux, Documentation/userspace-api/landlock.rst, include/uapi/linux/landlock.h.
"""

import ctypes
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from blockfl.institution.errors import ConfinementError

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_DIR, MAKE_REG, MAKE_FIFO, MAKE_SYM = 1 << 7, 1 << 8, 1 << 10, 1 << 12
REFER, TRUNCATE, IOCTL_DEVICE = 1 << 13, 1 << 14, 1 << 15
_ALL_BY_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_NETWORK = 0b11
"""Binding and connecting TCP sockets."""
_SCOPES = 0b11
"""Abstract unix sockets and signals: only within the domain."""

READ = READ_FILE | READ_DIR | EXECUTE
WRITE = (READ_FILE | READ_DIR | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_FIFO | MAKE_SYM) | (
    REFER | TRUNCATE
)
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEVICE

SIGNAL_SCOPE_VERSION = 6
"""From this version on Landlock itself keeps signals inside."""


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A file, or a directory with all beneath it, and what is allowed there (``READ``, ``WRITE``)."""

    path: Path
    access: int


class _RulesetAttributes(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _call(number: int, *arguments: object) -> int:
    library = ctypes.CDLL(None, use_errno=True)
    result = int(library.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def read_version() -> int:
    """Return the version of Landlock in the running kernel, 0 for none."""
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_FLAG))
    except OSError:
        return 0


def set_no_new_privileges() -> None:
    """Give up set-uid programs and file capabilities for good; needed before any filter.

    Raises:
        ConfinementError: The kernel refuses.
    """
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise ConfinementError(f"the kernel refuses no_new_privs: {os.strerror(ctypes.get_errno())}")


def restrict(grants: Iterable[Grant]) -> None:
    """Confine the calling thread, and what it starts, to the granted paths. Grants of absent paths are skipped.

    Raises:
        ConfinementError: The kernel has no Landlock, or refuses.
    """
    version = read_version()
    if version < 1:
        raise ConfinementError("this kernel offers no Landlock: expected Linux 5.13 or later with Landlock enabled")
    handled = _ALL_BY_VERSION[min(version, max(_ALL_BY_VERSION))]
    attributes = _RulesetAttributes(
        handled, _NETWORK if version >= 4 else 0, _SCOPES if version >= SIGNAL_SCOPE_VERSION else 0
    )
    size = 24 if version >= SIGNAL_SCOPE_VERSION else 16 if version >= 4 else 8
    try:
        ruleset = _call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(size), ctypes.c_uint32(0))
        try:
            for grant in grants:
                _add(ruleset, grant, handled)
            _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
        finally:
            os.close(ruleset)
    except OSError as error:
        raise ConfinementError(f"the kernel refuses Landlock: {error.strerror}") from error


def _add(ruleset: int, grant: Grant, handled: int) -> None:
    try:
        descriptor = os.open(grant.path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        access = grant.access & handled
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        if access:
            rule = _PathBeneath(access, descriptor)
            _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)
