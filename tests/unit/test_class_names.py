"""One word for each thing: no two public classes of the product have one name."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
AREAS = ("aggregator", "chaincode", "clients", "fabric", "network", "protocol")
FOR_TESTS_OF_USERS = Path("fabric/blockfl/fabric/testing")
"""A package apart, for tests of contracts: a network and organisations that live as long as a test."""


def find_places() -> dict[str, list[str]]:
    """Return, for each public class name, the files that define one."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for area in AREAS:
        for file in sorted((ROOT / area).rglob("*.py")):
            relative = file.relative_to(ROOT)
            if FOR_TESTS_OF_USERS in relative.parents:
                continue
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(relative))
    return places


def test_a_class_name_has_one_meaning() -> None:
    places = find_places()
    assert places["Round"] == ["protocol/blockfl/protocol/records.py"]
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
