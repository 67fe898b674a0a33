"""Legacy Keras `.h5` files, planned: the weight group, and around it a model's config.

    layer_names        attribute: the layers in order; in pieces where it is too long for one
    conv               group of a layer; attribute `weight_names`: conv/kernel:0, …
    conv/conv/kernel:0             dataset

Specified by keras/src/legacy/saving/legacy_h5_format.py (v3.15.0). Lists are texts of fixed length:
those of variable length take 16 bytes of an attribute for each text, and libhdf5 fails on 4,096 of
them where Keras's own arithmetic says that they fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import TargetError
from ..names import encode
from ..output import PlannedFile
from ..tensors import Tensor
from .h5_writer import NewDataset, NewGroup, lay_out
from .hdf5_attributes import Attribute

__all__ = ["OPTIMIZER_GROUP", "LegacyLayer", "LegacyModel", "Listed", "plan_legacy"]

MODEL_GROUP, OPTIMIZER_GROUP, TOP_GROUP = (
    "model_weights", "optimizer_weights", "top_level_model_weights",
)  # fmt: skip
RESERVED = frozenset({MODEL_GROUP, OPTIMIZER_GROUP, TOP_GROUP})
LIST_BYTES = 64512  # HDF5_OBJECT_HEADER_LIMIT of Keras
BACKEND = "tensorflow"  # whose layout this is; Keras writes that of its weights, whatever ran


class Listed(NamedTuple):
    """A variable in a list: its text there without `:0`, and the tensor's name and values."""

    text: str
    name: str
    tensor: Tensor


class LegacyLayer(NamedTuple):
    """A layer and its variables: those that are trained first, as Keras counts them."""

    name: str
    variables: Sequence[Listed]


class LegacyModel(NamedTuple):
    """What a file holds.

    Attributes:
        layers: in the order of the model, with those without variables.
        top: variables of the model itself.
        optimizer: its variables in order.
        version: of the Keras whose layout it is.
        texts: attributes of a whole model (`model_config`, …); empty for weights alone.
    """

    layers: Sequence[LegacyLayer]
    top: Sequence[Listed]
    optimizer: Sequence[Listed]
    version: str
    texts: Mapping[str, str]

    @property
    def whole(self) -> bool:
        """Whether it is a model and not its weights alone."""
        return bool(self.texts)

    def entries(self) -> Iterator[tuple[str, Listed]]:
        """Yield the variables with their layers, in the order in which they are planned."""
        for layer in self.layers:
            yield from ((layer.name, variable) for variable in layer.variables)
        yield from (("", variable) for variable in self.top)


def plan_legacy(model: LegacyModel, target: Path) -> tuple[PlannedFile, dict[str, str]]:
    """Plan a file; return it with the name of the tensor at each path, an optimizer's last.

    Raises:
        TargetError: a name cannot be held.
    """
    base = MODEL_GROUP if model.whole else ""
    about: dict[str, Attribute] = {"keras_version": model.version, "backend": BACKEND}
    names = [encode(layer.name) for layer in model.layers]
    groups = [NewGroup(base, about | _list(f"`{base or '/'}`", "layer_names", names, target))]
    if model.whole:
        groups.append(NewGroup("", about | dict(model.texts)))
    datasets: list[NewDataset] = []
    for layer in model.layers:
        if not model.whole and layer.name in RESERVED:
            raise TargetError(
                f"no layer can have the name `{layer.name}` in this format", path=target,
                hint="choose .weights.h5 or .safetensors",
            )  # fmt: skip
        _add(datasets, groups, _join(base, layer.name), layer.variables, target)
    if model.top or model.whole:
        _add(datasets, groups, _join(base, TOP_GROUP), model.top, target)
    if model.optimizer:
        _add(datasets, groups, OPTIMIZER_GROUP, model.optimizer, target)
    laid = lay_out(datasets, groups, target)
    file = PlannedFile(target, laid.size, laid.literals, laid.placements)
    return file, {dataset.path: dataset.name for dataset in datasets}


def _add(
    datasets: list[NewDataset],
    groups: list[NewGroup],
    group: str,
    variables: Iterable[Listed],
    target: Path,
) -> None:
    entries = [f"{variable.text}:0" for variable in variables]
    texts = [encode(entry) for entry in entries]
    groups.append(NewGroup(group, _list(f"`{group}`", "weight_names", texts, target)))
    datasets += [
        NewDataset(f"{group}/{entry}", variable.name, variable.tensor)
        for entry, variable in zip(entries, variables, strict=True)
    ]


def _list(where: str, name: str, texts: list[bytes], target: Path) -> dict[str, Attribute]:
    """Return a list as an attribute, or in pieces of equal counts if it is too long for one."""
    width = max(map(len, texts), default=0)
    if width > LIST_BYTES:
        raise TargetError(
            "length of a name", path=target, where=f"group {where}",
            expected=f"at most {LIST_BYTES} bytes", got=f"{width} bytes",
            hint="choose .safetensors",
        )  # fmt: skip
    if width * len(texts) <= LIST_BYTES:
        return {name: texts}
    step = LIST_BYTES // width
    pieces = range(0, len(texts), step)
    return {f"{name}{number}": texts[at : at + step] for number, at in enumerate(pieces)}


def _join(base: str, name: str) -> str:
    return f"{base}/{name}" if base else name
