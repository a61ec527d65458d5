"""How a state database of the kind CouchDB gives values back: JSON objects taken apart, in another spelling."""

from __future__ import annotations

import json

_ESCAPED = str.maketrans({one: f"\\u{ord(one):04x}" for one in "<>&\u2028\u2029"})


class ReservedNameError(Exception):
    """A peer with such a database refuses a value with this name in its outermost object."""


def respell(value: bytes) -> bytes:
    """Return what is read of a value that was written.

    Source: Fabric's core/ledger/kvledger/txmgmt/statedb/statecouchdb, couchdoc_conv.go, on Go's encoding/json.
    """
    try:
        content = json.loads(value)
    except ValueError:
        return value
    if not isinstance(content, dict):
        return value
    if reserved := [name for name in content if name.startswith("_") or name == "~version"]:
        raise ReservedNameError(reserved[0])
    # Go orders names by their bytes, RFC 8785 by UTF-16.
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True).translate(_ESCAPED).encode()
