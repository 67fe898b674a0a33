"""What the verb `average` does once its words are parsed."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ..converters.containers.checkpoint_files import steps_in
from ..converters.errors import UsageError
from ..converters.tensors import TensorDict
from .average import averaged, decaying_weights
from .casts import cast_tensors, parse_casts
from .console import Console
from .convert import Listener, chosen, convert_chosen
from .options import ConvertOptions

__all__ = ["Mean", "run_average"]


@dataclass(frozen=True)
class Mean:
    """What is averaged.

    Attributes:
        sources: files, folders or prefixes; with `last` one folder with the steps of a run.
        last: take this many of its last checkpoints.
        weights: what each model counts, in their order; none where all count the same.
        decay: instead, how much of the moving average each further model leaves.
    """

    sources: tuple[str, ...]
    last: int | None = None
    weights: tuple[float, ...] = ()
    decay: float | None = None

    def steps(self) -> list[int] | None:
        """Return the steps to average, or None where each source is a model.

        Raises:
            UsageError: there are not so many, or not one folder.
        """
        if self.last is None:
            return None
        if len(self.sources) != 1 or not Path(self.sources[0]).is_dir():
            raise UsageError("--last takes the checkpoints of one folder", path=self.sources[0])
        steps = steps_in(Path(self.sources[0]))
        if len(steps) < self.last:
            raise UsageError(
                "holds fewer checkpoints with a step in their names",
                path=self.sources[0], expected=f"at least {self.last}", got=len(steps),
            )  # fmt: skip
        return steps[-self.last :]

    def weights_of(self, count: int) -> Sequence[float]:
        """Return what each of the models counts.

        Raises:
            UsageError: there are not as many weights, or they are no weights.
        """
        if count < 2:
            raise UsageError("one model alone has no mean", hint="name several, or use --last N")
        if self.decay is not None:
            if self.weights:
                raise UsageError("--weights and --decay say the same in two ways")
            return decaying_weights(count, self.decay)
        if not self.weights:
            return [1.0] * count
        if len(self.weights) != count:
            raise UsageError("--weights", expected=f"{count} numbers", got=len(self.weights))
        if not all(math.isfinite(each) and each > 0 for each in self.weights):
            raise UsageError("--weights", expected="numbers above 0", got=list(self.weights))
        return self.weights


def run_average(
    mean: Mean,
    target: str,
    options: ConvertOptions,
    *,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Write the mean of several models, and print the account of it.

    Raises:
        ConvertError: a model cannot be read, or does not hold what the others do; the target is
            then as it was.
    """
    name = mean.sources[-1]
    console = Console(name, quiet=quiet, verbose=verbose)
    done = convert_chosen(name, _chosen(mean, options, console), target, options, console)
    console.closing(done)
    if as_json:
        sys.stdout.write(json.dumps(done.json(), separators=(",", ":")) + "\n")


@contextmanager
def _chosen(
    mean: Mean, options: ConvertOptions, listener: Listener
) -> Iterator[tuple[TensorDict, TensorDict]]:
    """Give the last model and the means of what is chosen of each."""
    parts = list(_parts(mean, options))
    weights = mean.weights_of(len(parts))
    hearing = [*[Listener()] * (len(parts) - 1), listener]
    with ExitStack() as stack:
        models = [
            stack.enter_context(chosen(source, how, hears))
            for (_, source, how), hears in zip(parts, hearing, strict=True)
        ]
        means = averaged([kept for _, kept in models], [label for label, *_ in parts], weights)
        yield models[-1][0], cast_tensors(means, parse_casts(options.dtypes), options.by)


def _parts(mean: Mean, options: ConvertOptions) -> Iterator[tuple[str, str, ConvertOptions]]:
    """Yield what to call each model, where it is, and how to read it."""
    plain = replace(options, dtypes=())  # types change after the mean is made, not before
    steps = mean.steps()
    if steps is None:
        yield from ((source, source, plain) for source in mean.sources)
        return
    [folder] = mean.sources
    for step in steps:
        yield f"{folder}: step {step}", folder, replace(plain, read=replace(plain.read, step=step))
