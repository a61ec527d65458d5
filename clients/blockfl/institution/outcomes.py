"""What became of an institution's rounds: told once each, and summed up at the end."""

from typing import Final

from blockfl.institution.errors import NothingContributedError
from blockfl.institution.step import Report, Stage, Step
from blockfl.ledger.client import Ledger
from blockfl.protocol.catalogue import ROUND, UPDATE
from blockfl.protocol.effect import find_verdict
from blockfl.protocol.judging import describe_verdict
from blockfl.protocol.records import Round

_ACCEPTED: Final = "accepted"
_REFERENCE: Final = "the reference"


class Outcomes:
    """The outcomes of one agent's rounds in one task.

    Args:
        ledger: The institution's.
        task: Its name.
        report: Told of each outcome.
    """

    def __init__(self, ledger: Ledger, task: str, report: Report) -> None:
        self._ledger = ledger
        self._task = task
        self._report = report
        self._told: set[tuple[int, str]] = set()
        self._texts: dict[int, str] = {}
        self._undecided: int | None = None

    def tell_once(self, number: int, stage: Stage, text: str) -> None:
        """Report something of a round, unless the same stage of it was reported before."""
        if (number, stage) not in self._told:
            self._told.add((number, stage))
            self._report(Step(stage=stage, round=number, text=text))

    def skip(self, number: int, why: str) -> None:
        """Report that a round goes on without this institution."""
        self._texts.setdefault(number, why)
        self.tell_once(number, "skip", why)

    def has_skipped(self, number: int) -> bool:
        """Whether a round goes on without this institution."""
        return (number, "skip") in self._told

    async def follow(self, round_: Round) -> None:
        """Tell what became of the institution's update, once that is certain.

        Rounds may follow each other faster than the agent looks: the one before the last is then read once more.

        Args:
            round_: The task's last round.
        """
        number = self._undecided
        if number is not None and number != round_.round:
            await self._tell_verdict(await self._ledger.read(ROUND.key(self._task, number)))
        await self._tell_verdict(round_)
        self._undecided = round_.round if round_.state in ("open", "closed") else None

    async def _tell_verdict(self, round_: Round) -> None:
        organisation, number = self._ledger.organisation, round_.round
        if round_.state == "open" or round_.participant(organisation) is None:
            return
        if round_.failure == "abandoned":
            self.skip(number, "the round was given up, it was not published in time")
        if (number, "verdict") in self._told:
            return
        text = _ACCEPTED
        referee = round_.referee
        if referee and referee.organisation == organisation:
            text = f"{_REFERENCE}, {referee.reference}"
        elif organisation in round_.rejected:
            update = await self._ledger.read(UPDATE.key(self._task, number, organisation))
            text = describe_verdict(find_verdict(round_, update))
        elif organisation in round_.absent:
            text = "absent: no update was submitted"
        elif organisation in round_.unjudged:
            text = "not judged in time"
        if round_.has_failed_closing:
            text += f"; the round failed ({round_.failure}), {len(round_.accepted)} updates were accepted"
        if organisation in round_.absent:
            self._texts.setdefault(number, text)
        else:
            self._texts[number] = text
        self.tell_once(number, "verdict", text)

    def sum_up(self) -> str:
        """Return in how many rounds the institution contributed, in words.

        Raises:
            NothingContributedError: There were rounds, and it contributed to none.
        """
        counted = sum(text.startswith((_ACCEPTED, _REFERENCE)) for text in self._texts.values())
        done, rounds = f"done with task {self._task}", len(self._texts)
        if rounds and not counted:
            number, why = max(self._texts.items())
            raise NothingContributedError(
                f"{done}, but no update of {self._ledger.organisation} was accepted in {rounds} "
                f"{'round' if rounds == 1 else 'rounds'}; round {number}: {why}"
            )
        return f"{done}: {counted} of {rounds} rounds contributed" if rounds else done
