"""Configuration updates equal the ones that Fabric's own tool computes from the same two configurations."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fabric_protos.common import common_pb2, configtx_pb2

from blockfl.fabric.channel.changes import (
    add_organisation,
    change_batch,
    change_consenters,
    remove_organisation,
    revoke_certificates,
)
from blockfl.fabric.channel.config import BatchSettings, ChannelConfig
from blockfl.fabric.channel.update import compute_update, read_update
from support.organisation import make_organisation
from support.recording import recorded_blocks
from support.replay import replayed
from support.scratch_ledger import genesis_config, organisations

BATCH = BatchSettings(max_message_count=7, absolute_max_bytes=9_000_000, preferred_max_bytes=700, timeout_s=0.05)


@pytest.fixture
def configtxlator() -> Path:
    directory = os.environ.get("FABRIC_BIN")
    if not directory:
        pytest.skip("FABRIC_BIN does not name a directory with Fabric's configtxlator")
    tool = Path(directory) / "configtxlator"
    if not tool.is_file():
        pytest.skip(f"no configtxlator in FABRIC_BIN ({directory})")
    return tool


def several(config: ChannelConfig) -> Any:
    """An organisation joins, another one leaves, batches and ordering nodes change, at once."""
    steps: tuple[Callable[[ChannelConfig], Any], ...] = (
        lambda now: add_organisation(now, make_organisation("epsilon").spec(anchor=7999)),
        lambda now: remove_organisation(now, "delta"),
        lambda now: change_batch(now, BATCH),
        lambda now: change_consenters(now, [organisations()["alpha"].consenter(9, 7998), *now.consenters[1:]]),
    )
    for step in steps:
        config = ChannelConfig.from_config(step(config), config.channel_id)
    return config.config


CHANGES: dict[str, Callable[[ChannelConfig], Any]] = {
    "an organisation joins": lambda config: add_organisation(config, make_organisation("epsilon").spec(anchor=7999)),
    "an organisation leaves": lambda config: remove_organisation(config, "delta"),
    "a certificate is revoked": lambda config: revoke_certificates(
        config,
        "delta",
        organisations()["delta"].signing.revoke([organisations()["delta"].signer("thief").identity.certificate_pem]),
    ),
    "other batches": lambda config: change_batch(config, BATCH),
    "other ordering nodes": lambda config: change_consenters(
        config, [organisations()["alpha"].consenter(9, 7999), *config.consenters[1:]]
    ),
    "several at once": several,
}


@pytest.mark.parametrize("change", CHANGES)
def test_an_update_equals_the_one_of_configtxlator(configtxlator: Path, tmp_path: Path, change: str) -> None:
    config = genesis_config()
    compare(configtxlator, tmp_path, config, CHANGES[change](config))


@pytest.mark.parametrize("number", [66, 92])
def test_an_update_of_the_recorded_ledger_equals_the_one_of_configtxlator(
    configtxlator: Path, tmp_path: Path, number: int
) -> None:
    envelope = common_pb2.Envelope.FromString(recorded_blocks()[number].data.data[0])
    made = configtx_pb2.ConfigEnvelope.FromString(common_pb2.Payload.FromString(envelope.payload).data)
    compare(configtxlator, tmp_path, replayed().steps[number].config, made.config)


def compare(tool: Path, directory: Path, config: ChannelConfig, wanted: Any) -> None:
    before, after, output = (directory / name for name in ("before.pb", "after.pb", "update.pb"))
    before.write_bytes(config.config.SerializeToString())
    after.write_bytes(wanted.SerializeToString())
    command: list[str | Path] = [tool, "compute_update", "--channel_id", config.channel_id]
    command += ["--original", before, "--updated", after, "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ours = compute_update(config.config, wanted, config.channel_id)
    assert read_update(ours) == read_update(output.read_bytes())
