"""The elements of a configuration, groups, values and policies, and the names that they may have.

Source: Hyperledger Fabric 3.1, common/configtx/validator.go (validateConfigID).
"""

from __future__ import annotations

import re
from typing import Any, Final

from blockfl.fabric.errors import ConfigError

_NAME: Final = re.compile(r"[a-zA-Z0-9.-]{1,249}")


def is_name(text: str) -> bool:
    """Whether an element of a configuration may have this name."""
    return bool(_NAME.fullmatch(text)) and text not in (".", "..")


def check_names(group: Any) -> None:
    """Check the names of all elements in a group (common.ConfigGroup).

    Raises:
        ConfigError: one is no name.
    """
    for name in (*group.groups, *group.values, *group.policies):
        if not is_name(name):
            raise ConfigError(f"expected letters, digits, dots and hyphens as a name in a configuration, got {name!r}")
    for child in group.groups.values():
        check_names(child)
