"""A model's tensors: names, dtypes, shapes and their agreed order."""

from typing import Annotated, Final, Literal, Self

from pydantic import FailFast, Field, StringConstraints, model_validator

from blockfl.protocol.canonical import Natural, Positive, Record
from blockfl.protocol.dtype import DtypeName

MAX_DIMENSION = 2**28
MAX_TENSORS = 10_000
Kind = Literal["weight", "statistic", "variance", "frozen"]
_PLACES: Final[dict[Kind, int]] = {"weight": 0, "statistic": 1, "variance": 1, "frozen": 2}


class Tensor(Record):
    """One tensor of the model: row-major, ``offset`` counted in elements.

    ``kind`` says what happens to it: a ``weight`` is trained; a ``statistic`` is computed from the data, a ``variance``
    is a statistic that is never below 0; a ``frozen`` weight stays as it is.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    dtype: DtypeName
    shape: Annotated[tuple[Positive, ...], FailFast(), Field(max_length=8)]
    offset: Natural
    kind: Annotated[Kind, Field(exclude_if=lambda kind: kind == "weight")] = "weight"

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for extent in self.shape:
            size *= extent
        return size

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.name == "__metadata__":
            raise ValueError("a model file keeps the name __metadata__ for itself: rename the tensor")
        return self


class Manifest(Record):
    """The model's tensors in their agreed order, without gaps: trained weights first, then statistics, then frozen."""

    tensors: Annotated[tuple[Tensor, ...], FailFast(), Field(min_length=1, max_length=MAX_TENSORS)]

    @property
    def dimension(self) -> int:
        """Number of elements of all tensors, d."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def trained(self) -> int:
        """Number of elements of the weights that are trained; they come first."""
        return sum(tensor.size for tensor in self.tensors if tensor.kind == "weight")

    @property
    def moving(self) -> int:
        """Number of elements of the statistics, which stand behind the trained weights."""
        return sum(tensor.size for tensor in self.tensors if tensor.kind in ("statistic", "variance"))

    @model_validator(mode="after")
    def _check(self) -> Self:
        offset = 0
        places = [_PLACES[tensor.kind] for tensor in self.tensors]
        if places[0] != 0 or places != sorted(places):
            raise ValueError("expected at least one weight that is trained first, then statistics, then frozen weights")
        for tensor in self.tensors:
            if tensor.offset != offset:
                raise ValueError(f"tensor {tensor.name}: offset {tensor.offset}, expected {offset}")
            offset += tensor.size
        if len({tensor.name for tensor in self.tensors}) != len(self.tensors):
            raise ValueError("tensor names must differ")
        if offset > MAX_DIMENSION:
            raise ValueError(f"dimension {offset} is over {MAX_DIMENSION}")
        return self
