"""Name constraints: which names an authority may certify.

Peers judge the alternative names below an authority with constraints; here such a certificate is refused, and what it
signs is a finding of an audit. A certificate without alternative names is judged as peers do: its common name must not
look like a host's.

Source: Hyperledger Fabric 3.1, msp/mspimpl.go (verifyLegacyNameConstraints).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from blockfl.fabric.encoding.certificate import Certificate
from blockfl.fabric.encoding.name import read_common_name

_LABEL: Final = r"(?:[0-9A-Za-z_:][0-9A-Za-z_:-]*)"
_HOST: Final = re.compile(rf"(?:\*|{_LABEL})(?:\.{_LABEL})*\.?")


def constraints_hold(chain: Sequence[Certificate]) -> bool:
    """Whether the alternative names in a chain, the certificate itself first, are those that its authorities allow."""
    highest = max((index for index, one in enumerate(chain) if one.extensions.has_name_constraints), default=0)
    return not any(one.extensions.has_alternative_names for one in chain[:highest])


def common_name_allowed(chain: Sequence[Certificate]) -> bool:
    """Whether the common name of a certificate without alternative names may stand below its authorities."""
    if len(chain) < 2 or chain[0].extensions.has_alternative_names:
        return True
    is_constrained = any(one.extensions.has_name_constraints for one in chain[1:])
    return not (is_constrained and _HOST.fullmatch(read_common_name(chain[0].subject)))
