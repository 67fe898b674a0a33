"""What gates look at, before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...converters.registry import ReadOptions
from ...converters.tensors import TensorDict
from ..convert import Listener

__all__ = ["GateInput"]


@dataclass(frozen=True)
class GateInput:
    """What gates look at, before anything is written.

    Attributes:
        path: what the user pointed at.
        source: all tensors that were found there; open.
        kept: those that are going to be written, in the types of the source.
        variants: the same in the types they are going to have, by name of the variant.
        reading: how the source was opened.
        fields: what the owner says, such as `metrics`.
        jobs: number of threads.
        licence: SPDX expression, empty where there is none.
        listener: hears `reading`, `advanced` and `finished` of what is read.
    """

    path: str
    source: TensorDict
    kept: TensorDict
    variants: Mapping[str, TensorDict]
    reading: ReadOptions
    fields: Mapping[str, Any]
    jobs: int
    listener: Listener
    licence: str = ""
