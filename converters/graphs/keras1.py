"""Weights of Keras 1 in today's layout, and kernels of Theano turned to where TensorFlow has them.

Both only when asked for. What Keras 1 stored differs from what Keras 2 and 3 expect:

    conv_W                      kernel; channels first: (out, in, h, w), else (h, w, in, out)
    conv1d_W                    (length, 1, in, out); up to 1.1 (out, in, length, 1)
    lstm_W_i, lstm_U_i, …       12 matrices for i, c, f, o; today 3 for i, f, c, o
    gru_W_z, …                  9 matrices for z, r, h; today 3
    conv_lstm_W_i, …            12 arrays in the order of the axes of conv_W
    bn_running_std              the moving variance

Theano convolves and TensorFlow correlates, so that Theano's kernels are turned by 180 degrees in
space; files of Keras 1 do not tell. The conversions are those of tf_keras (2.21, saving/legacy/
hdf5_format.py: preprocess_weights_for_loading) and of Keras 2.3.1 (conv_utils.convert_kernel).

Where the config is missing, the order of a kernel's axes follows from the length of its bias; where
that tells nothing either, the kernel stays as it is, and a note says so.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ..notes import Kind, Note
from ..tensors import MemoryTensor, Tensor, TensorSpec
from .keras_config import Layer
from .keras_h5_names import Entry, LayerFinder

if TYPE_CHECKING:
    import numpy as np

__all__ = ["modernise", "unflip"]

Order = Literal["tf", "th"]
Group = dict[str, Entry]

_LEAF = re.compile(
    r"(.+)_([WUb]|[WUb]_[icfozrh]|gamma|beta|alphas|running_mean|running_std)", re.DOTALL
)
_RENAMED = {
    "W": "kernel", "U": "recurrent_kernel", "b": "bias", "gamma": "gamma", "beta": "beta",
    "alphas": "alpha", "running_mean": "moving_mean", "running_std": "moving_variance",
}  # fmt: skip
# Gates in the order in which they are joined.
_GATES = ("ifco", "zrh")
# Those that Theano mirrors; it turns kernels of depthwise ones itself (Keras 2.3.1,
# theano_backend.py, _preprocess_conv2d_depthwise_kernel).
_CONVOLUTIONS = frozenset({
    "Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "Conv3DTranspose", "ConvLSTM2D",
    "ConvLSTM2DCell",
})  # fmt: skip


# Today's layout


def modernise(entries: Sequence[Entry], finder: LayerFinder) -> tuple[list[Entry], list[Note]]:
    """Return the variables of a file of Keras 1 as Keras 2 and 3 have them, and what was done.

    Args:
        entries: in the order of the lists.
        finder: of the config.
    """
    made: list[Entry] = []
    kept: list[str] = []
    for (_, prefix), group in _groups(entries).items():
        if not prefix:
            made.extend(group.values())
            continue
        layer = _layer(finder, next(iter(group.values())), prefix)
        joined = _join_gates(group, prefix, layer)
        made.extend(joined or _renamed(group, prefix, layer, kept))
    text = (
        f"Keras 1: {len(entries)} tensors became {len(made)} in today's layout; "
        "what was joined has the key of its first part"
    )
    notes = [Note(Kind.SOURCE, text)]
    if kept:
        text = f"the order of their axes is not certain, so they are kept: {', '.join(kept)}"
        notes.append(Note(Kind.SOURCE, text))
    return made, notes


def _groups(entries: Iterable[Entry]) -> dict[tuple[str, str], Group]:
    """Group variables by layer and by what stands before `_W`; by key where nothing does."""
    groups: dict[tuple[str, str], Group] = {}
    for entry in entries:
        match = _LEAF.fullmatch(entry.text)
        if match:
            groups.setdefault((entry.layer, match[1]), {})[match[2]] = entry
        else:
            groups.setdefault((entry.key, ""), {})[entry.text] = entry
    return groups


def _layer(finder: LayerFinder, entry: Entry, prefix: str) -> Layer | None:
    found = finder.candidates(entry.layer, () if prefix == entry.layer else (prefix,))
    return found[-1] if found else None  # the one that a wrapper holds


def _join_gates(group: Group, prefix: str, layer: Layer | None) -> list[Entry]:
    """Return kernel, recurrent kernel and bias of a recurrent layer that has one for each gate."""
    for gates in _GATES:
        wanted = [[f"{part}_{gate}" for gate in gates] for part in "WUb"]
        if set(group) != {name for names in wanted for name in names}:
            continue
        order = _order(group, layer)
        parts = [[_gate(group[name].tensor, order) for name in names] for names in wanted]
        if not all(_joinable(each) for each in parts):
            return []
        return [
            _entry(group[names[0]], prefix, part, _joined([each for each in tensors if each]))
            for part, names, tensors in zip("WUb", wanted, parts, strict=True)
        ]
    return []


def _gate(tensor: Tensor, order: Order | None) -> Tensor | None:
    """Return what a gate has with the outputs last; a convolution's only if the order is known."""
    return tensor if len(tensor.spec.shape) < 3 else _kernel(tensor, order, None)


def _joinable(parts: Sequence[Tensor | None]) -> bool:
    first = parts[0]
    return first is not None and all(each and each.spec == first.spec for each in parts)


def _renamed(group: Group, prefix: str, layer: Layer | None, kept: list[str]) -> list[Entry]:
    made = []
    for leaf, entry in group.items():
        tensor: Tensor | None = entry.tensor
        if len(entry.tensor.spec.shape) >= 4 and leaf[0] in "WU":
            order = _order(group, layer)
            tensor = _kernel(entry.tensor, order, layer) if leaf == "W" else None
        if tensor is None or leaf not in _RENAMED or _is_ambiguous(group, leaf, layer):
            if tensor is None:
                kept.append(f"`{entry.key}`")
            made.append(entry)
        elif leaf == "W" and layer and layer.kind == "Embedding":
            made.append(entry._replace(text=f"{prefix}/embeddings", tensor=tensor))
        else:
            made.append(_entry(entry, prefix, leaf, tensor))
    return made


def _is_ambiguous(group: Group, leaf: str, layer: Layer | None) -> bool:
    """Whether a matrix may as well be an embedding: it stands alone, and there is no config."""
    return leaf == "W" and layer is None and "b" not in group


def _entry(entry: Entry, prefix: str, leaf: str, tensor: Tensor) -> Entry:
    return entry._replace(text=f"{prefix}/{_RENAMED[leaf]}", tensor=tensor)


def _order(group: Group, layer: Layer | None) -> Order | None:
    """Return how the axes of a kernel are ordered, if config or bias tell."""
    kernel, filters = _first(group, "W"), _filters(group, layer)
    shape = kernel.tensor.spec.shape if kernel else ()
    if layer and _is_1d(layer):
        return _order_1d(shape, filters, layer.config.get("filter_length"))
    found = layer.config.get("dim_ordering") if layer else None
    if found in ("tf", "th"):
        return "tf" if found == "tf" else "th"
    if not shape or filters is None or (shape[0] == filters) == (shape[-1] == filters):
        return None
    return "th" if shape[0] == filters else "tf"


def _order_1d(shape: tuple[int, ...], filters: int | None, length: object) -> Order | None:
    """Return the order by where the axis of 1 is; there is none in the config."""
    if len(shape) != 4:
        return None
    new = shape[1] == 1 and filters in (None, shape[3]) and length in (None, shape[0])
    old = shape[3] == 1 and filters in (None, shape[0]) and length in (None, shape[2])
    return ("tf" if new else "th") if new != old else None


def _first(group: Group, part: str) -> Entry | None:
    """Return a layer's kernel or bias, or that of its first gate."""
    return group.get(part) or group.get(f"{part}_i")


def _filters(group: Group, layer: Layer | None) -> int | None:
    """Return the number of outputs of a convolution."""
    found, bias = layer.config.get("nb_filter") if layer else None, _first(group, "b")
    if isinstance(found, int):
        return found
    return bias.tensor.spec.shape[0] if bias and len(bias.tensor.spec.shape) == 1 else None


def _is_1d(layer: Layer | None) -> bool:
    return layer is not None and layer.kind == "Conv1D"


def _kernel(tensor: Tensor, order: Order | None, layer: Layer | None) -> Tensor | None:
    """Return a kernel as (space, in, out), that of a transposed convolution as (space, out, in)."""
    if order is None:
        return None
    if _is_1d(layer):
        return _kernel_1d(tensor, order)
    transposed = layer is not None and layer.kind == "Conv2DTranspose"
    if order == "tf":
        return _moved(tensor, (0, 1, 3, 2)) if transposed else tensor
    space = tuple(range(2, len(tensor.spec.shape)))
    return _moved(tensor, (*space, 0, 1) if transposed else (*space, 1, 0))


def _kernel_1d(tensor: Tensor, order: Order) -> Tensor:
    moved = tensor if order == "tf" else _moved(tensor, (2, 3, 1, 0))
    length, _, *channels = moved.spec.shape
    spec = TensorSpec(moved.spec.dtype, (length, *channels))
    return _made(spec, lambda: moved.read().reshape(spec.shape))


# Theano


def unflip(
    entries: Sequence[Entry], finder: LayerFinder, *, old: bool
) -> tuple[list[Entry], list[Note]]:
    """Return the variables with the kernels of convolutions turned by 180 degrees in space.

    Args:
        entries: in the order of the lists.
        finder: of the config.
        old: whether the file is one of Keras 1.
    """
    groups = _groups(entries) if old else {}
    made, count, kept = [], 0, []
    for entry in entries:
        axes = _axes_old(entry, groups, finder) if old else _axes(entry, finder)
        if axes is None:
            kept.append(f"`{entry.key}`")
        count += bool(axes)
        made.append(entry._replace(tensor=_flipped(entry.tensor, axes)) if axes else entry)
    notes = [Note(Kind.SOURCE, f"{count} kernels of convolutions turned by 180 degrees (Theano)")]
    if kept:
        text = f"may be kernels of convolutions and are not turned: {', '.join(kept)}"
        notes.append(Note(Kind.SOURCE, text))
    return made, notes


def _axes(entry: Entry, finder: LayerFinder) -> tuple[int, ...] | None:
    """Return the axes of space, none where it is no kernel; None where that is not certain."""
    (*path, leaf), rank = finder.parts(entry), len(entry.tensor.spec.shape)
    if leaf not in ("kernel", "recurrent_kernel") or rank < 3:
        return ()
    found = finder.candidates(entry.layer, path)
    if not found and rank == 3:  # of a convolution in one dimension, or of a locally connected one
        return None
    if found and not any(each.kind in _CONVOLUTIONS for each in found):
        return ()
    return tuple(range(rank - 2))


def _axes_old(
    entry: Entry, groups: dict[tuple[str, str], Group], finder: LayerFinder
) -> tuple[int, ...] | None:
    match, rank = _LEAF.fullmatch(entry.text), len(entry.tensor.spec.shape)
    if not match or match[2][0] not in "WU" or rank < 4:
        return ()
    layer = _layer(finder, entry, match[1])
    if layer is not None and layer.kind not in _CONVOLUTIONS:
        return ()
    order = _order(groups[entry.layer, match[1]], layer)
    if order is None:
        return None
    return tuple(range(rank - 2)) if order == "tf" else tuple(range(2, rank))


# Tensors


def _made(spec: TensorSpec, load: Callable[[], np.ndarray]) -> Tensor:
    return MemoryTensor(spec, lambda: load().tobytes())


def _moved(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    shape = tuple(tensor.spec.shape[axis] for axis in axes)
    spec = TensorSpec(tensor.spec.dtype, shape)
    return _made(spec, lambda: tensor.read().transpose(axes))


def _flipped(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    def load() -> np.ndarray:
        import numpy as np

        return np.flip(tensor.read(), axes)

    return _made(tensor.spec, load)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    first = parts[0].spec
    shape = (*first.shape[:-1], len(parts) * first.shape[-1])

    def load() -> np.ndarray:
        import numpy as np

        return np.concatenate([part.read() for part in parts], axis=-1)

    return _made(TensorSpec(first.dtype, shape), load)
