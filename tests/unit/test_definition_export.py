"""The contract's definition as files and command lines for Fabric's own ``peer lifecycle``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from blockfl.contract.definition import SEALED_BLOCK_TO_LIVE
from blockfl.contract.release import read_release
from blockfl.fabric.transaction.package import package_id
from blockfl.network.contract_service import package_code
from blockfl.network.definition_export import export_definition
from blockfl.network.errors import NetworkError
from blockfl.protocol.records import Consortium, Member

CONSORTIUM = Consortium(
    network="trade",
    channel="trade.channel-1",
    contract="blockfl",
    sequence=1,
    members=(
        Member(organisation="Org1MSP", roles=("committee", "coordinator")),
        Member(organisation="Org2MSP", roles=("committee",)),
        Member(organisation="org-3.msp", roles=("institution",)),
    ),
    threshold=2,
)


def test_the_collections_are_what_fabrics_command_takes(tmp_path: Path) -> None:
    exported = export_definition(CONSORTIUM, tmp_path / "out")
    sealed, models = json.loads(exported.collections.read_text())
    assert sealed == {
        "name": "sealed",
        "policy": "OutOf(1, 'Org1MSP.member', 'Org2MSP.member')",
        "requiredPeerCount": 0,
        "maxPeerCount": 0,
        "blockToLive": SEALED_BLOCK_TO_LIVE,
        "memberOnlyRead": True,
        "memberOnlyWrite": False,
        "endorsementPolicy": {"signaturePolicy": "OutOf(2, 'Org1MSP.peer', 'Org2MSP.peer')"},
    }
    assert models["name"] == "models"
    assert models["endorsementPolicy"] == {
        "signaturePolicy": "OutOf(2, 'Org1MSP.peer', 'Org2MSP.peer', 'org-3.msp.peer')"
    }


def test_the_commands_name_the_package_that_every_organisation_makes(tmp_path: Path) -> None:
    exported = export_definition(CONSORTIUM, tmp_path, sequence=3)
    assert exported.package.read_bytes() == package_code("blockfl")
    words = shlex.split(exported.approve)
    said = dict(zip(words[4::2], words[5::2], strict=True))
    assert said["--package-id"] == package_id(exported.package.read_bytes())
    assert said["--version"] == read_release().name
    assert (said["--channelID"], said["--sequence"]) == ("trade.channel-1", "3")
    assert "--package-id" not in exported.commit


def test_an_msp_id_that_fabrics_policies_do_not_take_is_refused(tmp_path: Path) -> None:
    first, *others = CONSORTIUM.members
    odd = first.model_copy(update={"organisation": "Org_1"})
    with pytest.raises(NetworkError, match=r"the MSP id Org_1 cannot stand .* blockfl network contract approve"):
        export_definition(CONSORTIUM.model_copy(update={"members": (odd, *others)}), tmp_path)
