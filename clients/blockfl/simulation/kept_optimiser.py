"""A site of a simulation whose optimizer goes on from round to round, as the agent's may (``KeptTraining``)."""

from collections.abc import Callable
from pathlib import Path

from blockfl.institution.frames import Evaluated, Train, Trained, TrainingProgress
from blockfl.institution.kept_optimiser import lay_state, take_state
from blockfl.institution.optimiser_state import FILE, limit_state
from blockfl.institution.personal import PersonalMemory
from blockfl.institution.vector import Vector
from blockfl.simulation.divided import WholeSite


class KeptSite:
    """Begins each round with the optimizer's state after the site's round before."""

    def __init__(self, site: WholeSite, directory: Path) -> None:
        """Begin.

        Args:
            site: Of the whole model.
            directory: Of this site alone, for the file in which the state crosses; made if absent.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self._site, self._path = site, directory / FILE
        self._keeper = PersonalMemory()

    def initial(self) -> Vector:
        """Return the model's initial values, all of them."""
        return self._site.initial()

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Train from the base values and the state; return the outcome and the new values."""
        trained, values = self._site.train(base, lay_state(self._path, self._keeper.load(), request), report)
        take_state(self._path, limit_state(values.size), self._keeper, request.round, values, trained)
        return trained, values

    def evaluate(self, values: Vector) -> Evaluated:
        """Evaluate values on the site's test samples."""
        return self._site.evaluate(values)
