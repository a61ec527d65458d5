"""A site of a simulation whose model has personal layers: they stay there from round to round."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from blockfl.institution.frames import Evaluated, Train, Trained, TrainingProgress
from blockfl.institution.personal import Division, PersonalMemory
from blockfl.institution.vector import Vector
from blockfl.simulation.simulation import Site


class WholeSite(Site, Protocol):
    """A site of the whole model, which tells its initial values."""

    def initial(self) -> Vector:
        """Return the model's initial values, all of them."""


class DividedSite:
    """Gives and takes the shared values of a site of the whole model, as the agent does (``DividedTraining``)."""

    def __init__(self, site: WholeSite, division: Division) -> None:
        self._site, self._division = site, division
        self._keeper = PersonalMemory()

    def train(self, base: Vector, request: Train, report: Callable[[TrainingProgress], None]) -> tuple[Trained, Vector]:
        """Train from shared base values, shape (d,), and the site's own; return the outcome and shared new values."""
        trained, values = self._site.train(self._join(base), request, report)
        shared, personal = self._division.split(values)
        if trained.loss is not None and np.isfinite(values).all():
            self._keeper.keep(request.round, personal)
        return trained, shared

    def evaluate(self, values: Vector) -> Evaluated:
        """Evaluate shared values, shape (d,), with the site's own on its test samples."""
        return self._site.evaluate(self._join(values))

    def _join(self, shared: Vector) -> Vector:
        personal = self._keeper.load()
        if personal is None:
            personal = self._division.split(self._site.initial())[1]
        return self._division.join(shared, personal)
