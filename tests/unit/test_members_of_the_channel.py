"""Whom the channel has put off is asked of every peer until one answers; a busy machine's peers answer late."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockfl.fabric.channel.config import ChannelConfig
from blockfl.fabric.channel.genesis import build_genesis_block
from blockfl.fabric.errors import NodeError
from blockfl.network.admission import list_removed
from blockfl.network.description import Description
from blockfl.network.errors import NetworkError
from blockfl.network.foundation import list_hosts
from blockfl.network.host import Host
from blockfl.network.layout import Layout
from support.organisation import channel_spec, make_organisation

_ADMISSION = "blockfl.network.admission"


@pytest.fixture
def founders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Host]:
    monkeypatch.setattr(f"{_ADMISSION}.ConnectionProfile.load", lambda path: path)
    monkeypatch.setattr(f"{_ADMISSION}._STRANGER_S", 0.0)
    return list_hosts(Description.load_default(17050), Layout(tmp_path))[:2]


def answer(monkeypatch: pytest.MonkeyPatch, answers: list[ChannelConfig | Exception]) -> None:
    left = iter(answers)

    async def read(_: object) -> ChannelConfig:
        one = next(left)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(f"{_ADMISSION}.Administrator.__init__", lambda *_: None)
    monkeypatch.setattr(f"{_ADMISSION}.Administrator.read", read)


async def test_peers_are_asked_again_until_one_answers(founders: list[Host], monkeypatch: pytest.MonkeyPatch) -> None:
    config = ChannelConfig.from_block(build_genesis_block(channel_spec(make_organisation(founders[0].name))))
    late = NodeError("not yet")
    answer(monkeypatch, [late, TimeoutError(), late, config])
    assert await list_removed(founders, 60) == founders[1:]


async def test_what_stands_in_the_way_of_each_peer_is_said(
    founders: list[Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, [NodeError("connection refused"), TimeoutError()])
    with pytest.raises(NetworkError) as caught:
        await list_removed(founders, -1)
    assert f"{founders[0].name}: connection refused" in str(caught.value)
    assert f"{founders[1].name}: no answer within" in str(caught.value)
