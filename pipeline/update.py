"""Tensors of other files put over those of a model, by name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ..converters.errors import UsageError
from ..converters.notes import Kind, Note
from ..converters.opening import open_tensors
from ..converters.registry import ReadOptions
from ..converters.tensors import TensorDict, TensorSpec

__all__ = ["updated"]


@contextmanager
def updated(
    base: TensorDict, paths: Iterable[str | os.PathLike[str]], options: ReadOptions
) -> Iterator[TensorDict]:
    """Give the tensors of `base` with those of other files in their place or added at the end.

    A replaced tensor keeps its origin: its key, role and owner in the base. The files are open
    as long as the context is.

    Args:
        base: the model.
        paths: the files, a later one over an earlier one.
        options: how the base was read; its names and checksums apply to the files too.

    Raises:
        UsageError: a tensor has another dtype or shape than the one it is to replace.
        ConvertError: a file cannot be read.
    """
    own = ReadOptions(names=options.names, verify=options.verify, endpoint_url=options.endpoint_url)
    with ExitStack() as stack:
        for path in paths:
            patch = stack.enter_context(open_tensors(path, own))
            if patch.broken:
                raise next(iter(patch.broken.values()))
            base = _over(base, patch, Path(path))
        yield base


def _over(base: TensorDict, patch: TensorDict, path: Path) -> TensorDict:
    targets = _targets(base, patch, path)
    _check_specs(base, patch, targets, path)
    added = [name for name, target in targets.items() if target not in base]
    notes = [
        Note(Kind.ADDED if target not in base else Kind.UPDATED, f"from `{path.name}`", target)
        for target in targets.values()
    ]
    counts = f"{len(targets) - len(added)} updated, {len(added)} added"
    said = Note(Kind.SOURCE, f"update by `{path.name}`, {patch.summary}: {counts}")
    keys = {base.origin(name).key for name in base}
    origins = {name: patch.origin(name)._replace(key=_new_key(name, keys)) for name in added}
    return replace(
        base,
        tensors={**base.tensors, **{to: patch[name] for name, to in targets.items()}},
        origins={**base.origins, **origins},
        notes=(*base.notes, *patch.notes, said, *notes),
        broken={name: why for name, why in base.broken.items() if name not in targets.values()},
    )


def _targets(base: TensorDict, patch: TensorDict, path: Path) -> dict[str, str]:
    """Return by name in the patch the name in the base; another name of a tensor is that tensor.

    Raises:
        UsageError: two tensors of the patch are one in the base.
    """
    targets: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in patch:
        target = name if name in base else base.aliases.get(name, name)
        if target in taken:
            raise UsageError(
                f"`{taken[target]}` and `{name}` are one tensor in the base",
                path=path,
                hint="leave one of them out of the update",
            )
        taken[target] = name
        targets[name] = target
    return targets


def _check_specs(base: TensorDict, patch: TensorDict, targets: dict[str, str], path: Path) -> None:
    unlike = [
        (name, base[target].spec, patch[name].spec)
        for name, target in targets.items()
        if target in base and base[target].spec != patch[name].spec
    ]
    if not unlike:
        return
    name, expected, got = unlike[0]
    more = f", and {len(unlike) - 1} more do not fit" if len(unlike) > 1 else ""
    raise UsageError(
        "does not fit the tensor of that name in the base",
        path=path,
        where=f"tensor `{name}`",
        expected=_shown(expected),
        got=f"{_shown(got)}{more}",
        hint="convert the update with --dtype first" if got.shape == expected.shape else None,
    )


def _shown(spec: TensorSpec) -> str:
    return f"{spec.dtype} of shape {spec.shape}"


def _new_key(name: str, keys: set[str]) -> str:
    """Return a key for a tensor that the base lacks; keys tell tensors apart."""
    return name if name not in keys else f"update::{name}"
