"""How the values of a tensor are kept in a model file: one object for each dtype, in one table.

Owns: the dtypes' names, here and in safetensors, and their bytes. Everybody computes with float32; a dtype says
how such values are stored and read again. To add one: its name in ``DtypeName``, its object in ``DTYPES``.

    data = DTYPES["float32"].pack(values)
    values = DTYPES["float32"].unpack(data)

Source: the safetensors format, https://github.com/huggingface/safetensors; ``docs/protocol.md``, models.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

DtypeName = Literal["float32"]
Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Dtype:
    """One way to store values.

    Attributes:
        name: As manifests say it, and numpy.
        file_name: As safetensors says it.
        width_bytes: Of one value.
        pack: From values, shape (n,), to an array that holds their bytes; without a copy where these are there already.
        unpack: From bytes to values, shape (n,); likewise.
    """

    name: DtypeName
    file_name: str
    width_bytes: int
    pack: Callable[[Vector], npt.NDArray[Any]]
    unpack: Callable[[memoryview], Vector]


def _pack_float32(values: Vector) -> npt.NDArray[Any]:
    return values.astype("<f4", copy=False)


def _unpack_float32(data: memoryview) -> Vector:
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


DTYPES: Final[dict[DtypeName, Dtype]] = {
    one.name: one
    for one in (Dtype(name="float32", file_name="F32", width_bytes=4, pack=_pack_float32, unpack=_unpack_float32),)
}


def choose_dtype(name: str) -> DtypeName:
    """Return how a model file keeps a tensor that a training library has in this dtype: the same, or float32."""
    return next((one for one in DTYPES if one == name), "float32")
