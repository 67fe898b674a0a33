"""What may be chosen about a conversion."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ..converters.registry import ReadOptions, WriteOptions
from .selection import By, Ema

__all__ = ["ConvertOptions", "Layout", "default_jobs"]

Layout = Literal["keep", "torch", "jax", "mlx"]


def default_jobs() -> int:
    """Return how many threads to use: those this process may run on, at most 4.

    Copying is bound by memory, not by computing; more threads gain nothing.
    """
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2, 4)


@dataclass(frozen=True)
class ConvertOptions:
    """What may be chosen about a conversion.

    Attributes:
        source_format: name of the source's format, where sniffing does not tell.
        target_format: name of the target's format, where its ending does not tell.
        read: how to open the source.
        write: how to lay the target out.
        include: patterns; only tensors that match one are kept.
        exclude: patterns; tensors that match one are left out.
        by: whether patterns are over names or keys.
        weights_only: leave out what is known to be no part of the model.
        ema: what to do with moving averages.
        updates: files whose tensors replace those of the same names or are added, in this order.
        layout: the framework whose names and axes tensors get, before any recipe.
        recipes: how names and tensors change before that, one recipe after the other; TOML that
            needs no other file, as `recipe.printing.recipe_text` gives it.
        dtypes: types to cast to: `bf16` for all floats, `embed*=f32` for those that match.
        allow_missing: leave out tensors whose data is not there instead of stopping.
        strict: any loss is an error; rounding by a cast that was asked for is none.
        dry_run: plan and report, write nothing.
        verify: read the output back and compare every tensor, before it gets its name.
        verify_sample: the same of all names, dtypes and shapes, and of the bytes of some tensors.
        digests: compute the digest of every tensor.
        like: a model, or a list of names and shapes, with which the result is compared.
        strict_like: it is an error if they differ.
        report: store the account of every tensor there, digests included; a file that is there
            is replaced.
        digest_file: store the digest of every tensor of the target there, and one of all; a file
            that is there is replaced.
        fsync: wait until the disk has everything.
        jobs: number of threads.
    """

    source_format: str | None = None
    target_format: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    write: WriteOptions = field(default_factory=WriteOptions)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    by: By = "name"
    weights_only: bool = False
    ema: Ema = "auto"
    updates: tuple[str | os.PathLike[str], ...] = ()
    layout: Layout = "keep"
    recipes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    allow_missing: bool = False
    strict: bool = False
    dry_run: bool = False
    verify: bool = False
    verify_sample: bool = False
    digests: bool = False
    like: str | None = None
    strict_like: bool = False
    report: Path | None = None
    digest_file: Path | None = None
    fsync: bool = False
    jobs: int = 0

    @property
    def threads(self) -> int:
        """Number of threads, the default where none was given."""
        return self.jobs or default_jobs()
