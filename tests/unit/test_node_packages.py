"""The lock of the Node packages suits any registry."""

from __future__ import annotations

import json
from pathlib import Path

NODE = Path(__file__).parents[1] / "node"


def test_the_lock_names_no_registry_and_pins_every_package() -> None:
    lock = json.loads((NODE / "package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [name for name, entry in packages.items() if not entry.get("integrity", "").startswith("sha512-")] == []


def test_the_official_packages_are_pinned_exactly() -> None:
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    assert all(version[0].isdecimal() for version in wanted.values())
