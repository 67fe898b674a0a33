r"""Keras legacy `.h5`: what `save_weights` and `save` wrote before Keras 3, and what Keras 3 reads.

    /                   weights alone: the weight group; a full model: attributes `model_config`,
                        `training_config`, `keras_version`, `backend`
    /model_weights      the weight group of a full model
        layer_names     attribute: the layers in order; in pieces `layer_names0`, … if it is long
        conv            group of a layer; attribute `weight_names`: conv/kernel:0, conv/bias:0
        conv/conv/kernel:0          dataset
        top_level_model_weights     variables of the model itself; in no list
    /optimizer_weights  attribute `weight_names`, datasets by these paths

Before Keras 1.0: attribute `nb_layers`, groups `layer_0`, … with `nb_params` and `param_0`, ….

Specified by keras/src/legacy/saving/legacy_h5_format.py (v3.15.0). The lists decide, never the
tree: layers `a` and `a/b` share groups. HDF5 itself: `containers/h5_locator.py`; names and roles:
`graphs/keras_h5_names.py`; conversions of the era: `graphs/keras1.py`.

Producers and their quirks: h5py 2 writes lists of fixed length and h5py 3 of variable length; an
empty list is one of float64; bfloat16 is two opaque bytes; Keras 1 has no `:0`, no version on the
weight group, and per-gate matrices; Theano's kernels are mirrored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..containers.h5_blocks import SIGNATURE
from ..containers.h5_locator import OutsideSubset, glance
from ..containers.h5_reading import read_tree
from ..containers.h5_tensors import tensor_of
from ..containers.h5_tree import Stored, Tree, opaque_type
from ..containers.keras_h5_writer import LegacyModel, plan_legacy
from ..containers.messages import MemorySource
from ..containers.strict_json import parse_json_object
from ..errors import ConvertError, CorruptFileError, UnsafeFileError, UsageError
from ..graphs.keras1 import modernise, unflip
from ..graphs.keras_given import LAYERS as LAYER_NAMES
from ..graphs.keras_given import MODEL_CONFIG, TRAINING_CONFIG, given
from ..graphs.keras_h5_names import (
    Entry,
    LayerFinder,
    describe,
    live_name,
    model_of,
    optimizer_of,
)
from ..graphs.keras_h5_slots import Slot
from ..graphs.keras_h5_targets import (
    KERAS_H5,
    by_config,
    by_names,
    fit_layers,
    read_names,
    split,
    unordered,
)
from ..graphs.keras_layout import KERAS_3
from ..graphs.optimizer_facts import optimizers_of_layer
from ..graphs.told_uses import uses_of_model
from ..names import decode
from ..notes import Kind, Note
from ..output import Plan, ReadBack
from ..registry import Format, Location, ReadOptions, WriteOptions
from ..sources import FileSource, Source
from ..tensors import Tensor, TensorDict, TensorSpec, with_texts

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["FORMAT"]

LAYERS, WEIGHTS, OLD_LAYERS, OLD_PARAMETERS = (
    "layer_names", "weight_names", "nb_layers", "nb_params",
)  # fmt: skip
MODEL_GROUP, OPTIMIZER_GROUP, TOP_GROUP = (
    "model_weights", "optimizer_weights", "top_level_model_weights",
)  # fmt: skip
MARKERS = frozenset({LAYERS, f"{LAYERS}0", OLD_LAYERS})
ATTRIBUTES = re.compile(
    r"(layer|weight)_names\d*|nb_(layers|params)|keras_version|backend|dtype"
    r"|(model|training)_config"
)
MAX_LAYERS = 1_000_000


# Recognising


def _sniff(location: Location) -> bool:
    head = location.head
    if not any(head.startswith(SIGNATURE, at) for at in (0, 512, 1024, 2048)):
        return False
    source = FileSource(location.path)
    try:
        return _has_markers(source)
    except OutsideSubset:
        return _has_markers_by_hdf5(source)
    except ConvertError:  # whoever opens it will say what is wrong
        return False
    finally:
        source.close()


def _has_markers(source: Source) -> bool:
    root = glance(source)
    if root.attributes & MARKERS:
        return True
    group = root.group(MODEL_GROUP)
    return group is not None and bool(group.attributes & MARKERS)


def _has_markers_by_hdf5(source: Source) -> bool:
    try:
        return _weight_group(read_tree(source, ATTRIBUTES)) is not None
    except ConvertError:
        return False


# Reading


def _open(location: Location, options: ReadOptions) -> TensorDict:
    source = FileSource(location.path)
    try:
        file = _File(source, read_tree(source, ATTRIBUTES, verify=options.verify))
        return _tensors(file, options)
    except BaseException as error:
        source.close()
        if isinstance(error, ConvertError) and error.path is None:
            error.path = str(location.path)
            error.args = (error.message,)
        raise


def _tensors(file: _File, options: ReadOptions) -> TensorDict:
    entries = list(file.entries())
    slots = list(file.slots())
    finder = LayerFinder(file.model, entries)
    entries = _converted(file, entries, finder, options)
    tensors = file.tensors | {entry.key: entry.tensor for entry in entries}
    shown = {entry.key for entry in entries} | {slot.key for slot in slots}
    others = [key for key in file.tensors if key not in shown and key not in file.used]
    readable = options.names == "readable"
    origins = describe(entries, slots, others, finder, file.optimizer, readable=readable)
    tensors = {name: tensors[origin.key] for name, origin in origins.items()}
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title}, {file.kind}{file.writer}",
        tensors=tensors,
        origins=with_texts(origins, tensors),
        notes=tuple(file.notes),
        attachments=file.attachments,
        uses=uses_of_model(file.model, origins),
        details=file.details,
        sources=(file.source,),
    )


def _converted(
    file: _File, entries: list[Entry], finder: LayerFinder, options: ReadOptions
) -> list[Entry]:
    """Apply the conversions that the user asked for."""
    old = file.version is None or file.version.startswith("1.")
    file.used.update(entry.key for entry in entries)
    if options.unflip_theano:
        if file.backend not in (None, "theano"):
            raise UsageError(
                "its kernels are not mirrored",
                path=file.source.path,
                expected="a file of Theano's",
                got=f"one of {file.backend}'s",
                hint="leave --unflip-theano out",
            )
        entries, notes = unflip(entries, finder, old=old)
        file.notes.extend(notes)
    if options.keras1 == "modern":
        if not old:
            text = f"written by Keras {file.version}: nothing to bring up to date (--keras1)"
            notes = [Note(Kind.SOURCE, text)]
        else:
            entries, notes = modernise(entries, finder)
        file.notes.extend(notes)
    return entries


@dataclass
class _File:
    """A tree, and what its lists and texts say.

    Attributes:
        tensors: by path of the dataset.
        used: paths of datasets that the lists name.
    """

    source: Source
    tree: Tree
    tensors: dict[str, Tensor] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    notes: list[Note] = field(default_factory=list)

    def __post_init__(self) -> None:
        group = _weight_group(self.tree)
        if group is None:
            raise CorruptFileError(
                "no Keras file of this layout",
                expected=f"an attribute `{LAYERS}` of `/` or of `/{MODEL_GROUP}`",
                got="none",
            )
        self.group = group
        # What Keras itself goes by: the weight group's own, which Keras 1 did not give one.
        self.version = self.tree.text(group, "keras_version")
        self.backend = self.tree.text(group, "backend") or self.tree.text("", "backend")
        self._guessed = 0
        for path, stored in self.tree.datasets.items():
            try:
                self._add(path, stored)
            except ConvertError as error:
                raise error.within(f"dataset `{path}`") from None
        if self._guessed:
            text = f"{self._guessed} tensors of two opaque bytes are taken for bfloat16"
            self.notes.append(Note(Kind.SOURCE, text))
        self.model = model_of(self._json("model_config"), self._major)
        training = self._json("training_config") or {}
        self.optimizer = optimizer_of(training.get("optimizer_config"), self._major)

    @property
    def kind(self) -> str:
        """What was saved."""
        full = self.group or OPTIMIZER_GROUP in self.tree.groups
        return "full model" if full else "weights alone"

    @property
    def writer(self) -> str:
        """Which Keras wrote it, as far as it says."""
        version = self.version or self.tree.text("", "keras_version")
        return f", Keras {version}" if version else ""

    @property
    def details(self) -> dict[str, object]:
        """Facts for `inspect`."""
        found: dict[str, object] = {
            "kind": self.kind,
            "producer": "Keras",
            "producer_version": self.version or self.tree.text("", "keras_version"),
            "backend": self.backend,
            "model": self.model and self.model.kind,
            "model_name": self.model and self.model.name,
            "optimizers": optimizers_of_layer(self.optimizer),
        }
        return {key: value for key, value in found.items() if value}

    @property
    def attachments(self) -> dict[str, Source]:
        """What a writer of a Keras file may take over."""
        texts = {
            name: found[0]
            for name in (MODEL_CONFIG, TRAINING_CONFIG)
            if (found := self.tree.texts("", name))
        }
        layers = _list(self.tree, self.group, LAYERS)
        if layers is not None:
            texts[LAYER_NAMES] = json.dumps(layers).encode("ascii")
        return {name: MemorySource(self.source.path, text) for name, text in texts.items()}

    @property
    def _major(self) -> int:
        number = (self.version or self.tree.text("", "keras_version") or "2").partition(".")[0]
        return int(number) if number.isdecimal() and len(number) < 4 else 2

    def entries(self) -> Iterator[Entry]:
        """Yield the model's variables in the order of the lists."""
        count = self.tree.number(self.group, OLD_LAYERS)
        layers = _list(self.tree, self.group, LAYERS)
        if layers is None:
            yield from self._old_entries(count or 0)
            return
        for layer in layers:
            path = _join(self.group, layer)
            names = _list(self.tree, path, WEIGHTS)
            if names is None:
                raise CorruptFileError(
                    f"layer `{layer}` is listed",
                    expected=f"a group `{path}` with `{WEIGHTS}`",
                    got="none",
                )
            yield from self._listed(path, layer, names)
        path = _join(self.group, TOP_GROUP)
        yield from self._listed(path, "", _list(self.tree, path, WEIGHTS) or [])

    def slots(self) -> Iterator[Slot]:
        """Yield the optimizer's variables in the order of their list."""
        for name in _list(self.tree, OPTIMIZER_GROUP, WEIGHTS) or []:
            key = self._find(OPTIMIZER_GROUP, name)
            yield Slot(key, live_name(name), self.tensors[key].spec)

    def _old_entries(self, count: int) -> Iterator[Entry]:
        if not 0 <= count <= MAX_LAYERS:
            raise CorruptFileError(f"attribute `{OLD_LAYERS}`", got=count)
        for number in range(count):
            layer = f"layer_{number}"
            path = _join(self.group, layer)
            parameters = self.tree.number(path, OLD_PARAMETERS) or 0
            if not 0 <= parameters <= len(self.tensors):
                raise CorruptFileError(f"`{path}`: attribute `{OLD_PARAMETERS}`", got=parameters)
            yield from self._listed(path, layer, [f"param_{each}" for each in range(parameters)])

    def _listed(self, path: str, layer: str, names: Iterable[str]) -> Iterator[Entry]:
        for name in names:
            key = self._find(path, name)
            yield Entry(key, layer, live_name(name), self.tensors[key])

    def _find(self, group: str, name: str) -> str:
        # Keras 2 on Theano calls slots `/m_0`, which HDF5 takes for a path from the root.
        above = "" if name.startswith("/") else group
        key = _join(above, *(part for part in name.split("/") if part not in ("", ".")))
        if key not in self.tensors:
            raise CorruptFileError(
                f"`{name}` is listed in `/{group}`", expected=f"a dataset `{key}`", got="none"
            )
        return key

    def _add(self, path: str, stored: Stored) -> None:
        if stored.shape is None:
            text = f"dataset `{path}` holds nothing, not even a shape: left out"
            self.notes.append(Note(Kind.SOURCE, text))
            return
        dtype = stored.element.dtype
        if dtype is None:
            dtype = opaque_type(self.tree, path, stored.element.width)
            self._guessed += "dtype" not in self.tree.names(path)
        spec = TensorSpec(dtype, stored.shape)
        self.tensors[path] = tensor_of(path, stored, spec, self.source)

    def _json(self, name: str) -> dict[str, Any] | None:
        found = self.tree.texts("", name)
        if not found:
            return None
        try:
            return parse_json_object(found[0])
        except UnsafeFileError as error:
            raise error.within(f"attribute `{name}`") from None
        except CorruptFileError as error:
            text = f"attribute `{name}` is not used: {error.message}"
            self.notes.append(Note(Kind.SOURCE, text))
            return None


# Lists and paths


def _weight_group(tree: Tree) -> str | None:
    """Return the path of the group that lists the layers."""
    for path in ("", MODEL_GROUP):
        has_list = _list(tree, path, LAYERS) is not None
        if has_list or tree.number(path, OLD_LAYERS) is not None:
            return path
    return None


def _list(tree: Tree, path: str, name: str) -> list[str] | None:
    """Return a list that is an attribute, or several numbered ones if it was too long."""
    found = tree.texts(path, name)
    if found is None:
        found, number = tree.texts(path, f"{name}0"), 0
        while found is not None:
            number += 1
            more = tree.texts(path, f"{name}{number}")
            if more is None:
                break
            found.extend(more)
    return None if found is None else [decode(each) for each in found]


def _join(*parts: str) -> str:
    return "/".join(filter(None, parts))


# Writing


def _plan(tensors: TensorDict, target: Path, options: WriteOptions) -> Plan:
    config = given(tensors, options.config)
    weights, beside, dropped = split(tensors, config)
    notes: list[Note] = []
    if config is None or config.model is None:
        if options.config:
            raise UsageError("no Keras config of a model in it (--config)", path=options.config)
        _check_named(weights, target)
        model = by_names(tensors.select((*weights, *beside)), beside)
        notes += _order_notes(tensors, model)
    else:
        layout, fitting = fit_layers(weights, config, target)
        model = by_config(tensors, beside, config, layout, fitting, target)
        dropped += fitting.dropped
    if model.optimizer and TRAINING_CONFIG not in model.texts:
        text = "Keras reads an optimizer's variables only with a `training_config`; they are kept"
        notes.append(Note(Kind.TARGET, text))
    notes += [Note(Kind.DROPPED, "no variable of the model", name) for name in dropped]
    file, keys = plan_legacy(model, target)
    once = set(weights) - set(keys.values()) - set(dropped)
    text = "another layer's variable, which this format keeps with that layer alone"
    notes += [Note(Kind.TARGET, text, name) for name in weights if name in once]
    names = read_names(model, keys, config)
    return Plan(FORMAT.name, (file,), names, tuple(notes), read_back=ReadBack(FORMAT.name, keys))


def _order_notes(tensors: TensorDict, model: LegacyModel) -> Iterator[Note]:
    if tensors.format == KERAS_H5:
        return
    text = "the order of layers is the source's: where the model's is another, load with by_name"
    yield Note(Kind.TARGET, text)
    inside = unordered(model)
    if inside:
        text = (
            f"the order inside of {', '.join(f'`{name}`' for name in inside)} is the source's, and"
            " Keras reads by position: --config with the model's config gives that of the model"
        )
        yield Note(Kind.TARGET, text)


def _check_named(tensors: TensorDict, target: Path) -> None:
    """Refuse keys of Keras 3 for names: their first part is no layer."""
    if tensors.format == KERAS_3:
        for name in tensors:
            if name == tensors.origin(name).key:
                raise UsageError(
                    "no layer is known of it, and this format keeps variables by layer",
                    path=target, where=f"tensor `{name}`",
                    hint="name the model's config with --config",
                )  # fmt: skip


# Checking


def _audit(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..containers.h5_audit import audit_h5

    del location, options
    yield from audit_h5(tensors.sources[0])


def _scan(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..graphs.model_audit import scan_configs

    del location, options
    yield from scan_configs(tensors.attachments, (MODEL_CONFIG, TRAINING_CONFIG))


FORMAT = Format(
    name="keras-h5",
    title="Keras .h5",
    extensions=(),
    sniff=_sniff,
    open=_open,
    plan=_plan,
    options=frozenset({"config"}),
    limits="CuDNN gates in the layout of today; texts of variable length in chunks",
    audit=_audit,
    scan=_scan,
)
