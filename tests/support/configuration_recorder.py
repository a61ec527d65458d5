"""Recording the corpus' configurations: each as the first block of a channel of its own, given to a real peer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from blockfl.fabric.client.endorser import Endorser
from blockfl.fabric.errors import EndorseError
from support.corpus_configurations import REFUSED, list_questions, make_configuration
from support.corpus_world import corpus_organisations, corpus_peer
from support.real_peer import PeerStopped, RunningPeer, running_peer, wait_for

MOST_CONFIGURATIONS: Final = 250
"""After so many a peer is replaced: it serves all channels for ever."""
_ANSWER_S: Final = 60.0
_NO_ANSWER: Final = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_NO_SUCH_BLOCK: Final = "no such block hash"
"""What a peer says to those whom it lets ask for a block that does not exist."""


class ConfigurationWitness:
    """A running peer that joins one channel after the other, and answers members there."""

    def __init__(self, peer: RunningPeer, administrator: Endorser, askers: list[Endorser]) -> None:
        self._peer = peer
        self._administrator = administrator
        self._askers = askers

    async def ask(self, kind: str, number: int) -> int:
        """The code of a case: `REFUSED`, or which questions are answered.

        Raises:
            PeerStopped: it gives none.
        """
        channel = f"{kind}-{number}".replace(" ", "-")
        block = make_configuration(kind, number, channel)
        if not await self._succeeds(self._administrator.query("", "cscc", "JoinChain", block)):
            return REFUSED
        code = 0
        for index, (question, asker) in enumerate(zip(list_questions(), self._askers, strict=True)):
            call = asker.query(channel, question.chaincode, question.function, channel, *question.arguments)
            code |= await self._succeeds(call) << index
        return code

    async def _succeeds(self, call: Coroutine[Any, Any, bytes]) -> bool:
        try:
            await call
        except EndorseError as error:
            if error.status in _NO_ANSWER:
                raise PeerStopped(str(error)) from error
            return _NO_SUCH_BLOCK in str(error)
        return True


@asynccontextmanager
async def configuration_witness(binaries: Path, directory: Path) -> AsyncIterator[ConfigurationWitness]:
    """A fresh peer that has joined nothing."""
    async with running_peer(binaries, directory, corpus_peer()) as peer, AsyncExitStack() as stack:
        administrator = corpus_organisations()["delta"].signer("admin", "admin")
        endorser = await stack.enter_async_context(Endorser(peer.endpoint, administrator, timeout_s=_ANSWER_S))
        await wait_for(endorser, peer.process)
        askers = [
            await stack.enter_async_context(Endorser(peer.endpoint, one.signer, timeout_s=_ANSWER_S))
            for one in list_questions()
        ]
        yield ConfigurationWitness(peer, endorser, askers)
