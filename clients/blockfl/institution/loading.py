"""Which learner trains what the user brought: Keras' own, or the one that gives and takes named arrays.

Nothing of a framework is imported before it is known to be needed. Runs in the training process.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from blockfl.institution.frames import Begin

if TYPE_CHECKING:
    from blockfl.institution.arrays import ArrayLearner
    from blockfl.institution.learner import Learner
    from blockfl.institution.tallying import Tallier

    AnyLearner = Learner | ArrayLearner | Tallier


def load_learner(begin: Begin) -> "AnyLearner":
    """Load the user's model, data or code.

    Raises:
        ModelError: The model cannot be used.
        DataError: The data cannot be used.
    """
    if begin.tallies:
        from blockfl.institution.tallying import Tallier

        return Tallier.load(begin)
    code = None
    if begin.code is not None:
        from blockfl.institution.code import load_code

        code = load_code(Path(begin.code))
        if hasattr(code, "train"):
            from blockfl.institution.arrays import ArrayLearner

            return ArrayLearner.load(begin, code)
    from blockfl.institution.learner import Learner

    return Learner.load(begin, code)
