"""Tensors of known values, for recipes to change."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
from tensorferry.converters.dtypes import DType
from tensorferry.converters.tensors import (
    MemoryTensor,
    Origin,
    Tensor,
    TensorDict,
    TensorSpec,
)

Make = Callable[..., TensorDict]


def tensor_of(values: np.ndarray) -> Tensor:
    dtype = DType.named(values.dtype.name)
    assert dtype
    return MemoryTensor(TensorSpec(dtype, values.shape), values.tobytes)


def numbered(*shape: int, dtype: str = "float32") -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=dtype).reshape(shape)


@pytest.fixture
def make() -> Make:
    """Return what makes a dictionary of arrays, or of tensors of shapes that count up."""

    def made(
        arrays: Mapping[str, np.ndarray | tuple[int, ...]],
        aliases: Mapping[str, str] | None = None,
        origins: Mapping[str, Origin] | None = None,
    ) -> TensorDict:
        values = {
            name: each if isinstance(each, np.ndarray) else numbered(*each)
            for name, each in arrays.items()
        }
        return TensorDict(
            "test",
            "test",
            {name: tensor_of(each) for name, each in values.items()},
            origins=origins or {},
            aliases=aliases or {},
        )

    return made
