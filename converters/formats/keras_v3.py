r"""Keras 3 (and Keras from 2.12 on): weights by object path in HDF5, alone or with their config.

    model.keras              zip of metadata.json, config.json, model.weights.h5, assets/…; stored
    <folder>                 the same, unzipped
    m.weights.json           index of shards m_00000.weights.h5, …
    m.weights.h5             weights alone:
        layers/dense/vars        group; attribute `name`: the layer's name, since 3.6
        layers/dense/vars/0      dataset; attribute `dtype`: bfloat16, whose type is opaque
        optimizer/vars/3         slots of the optimizer, counted through

Specified by keras/src/saving/saving_lib.py (v3.15.0). Where what lies:
`containers/keras_archive.py`; names: `graphs/keras_names.py` and what it uses; HDF5
itself: `containers/h5_locator.py`.

Datasets that lie in one piece are byte ranges of the file, or of the archive. The CRC-32 that a
zip keeps of all weights together is checked once they were read (`containers/checked_member.py`).

Not read: `model.weights.npz`, which is pickled; Orbax folders; custom objects' names. Assets are
kept for whoever writes a model.

Written is what Keras 3.15 writes: the places follow from the config, or from the keys of a source
that is such a file itself (`graphs/keras_targets.py`, `containers/keras_writer.py`).

Producers and their quirks: 2.12 to 2.14 write `_layer_checkpoint_dependencies` for `layers`; 2.12
to 2.15 on Windows write `layers\dense`; tf_keras writes neither names nor a learning rate, and
metrics; 3.14 and earlier leave out layers that are nested in two lists.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..containers.h5_writer import NewDataset
from ..containers.keras_archive import TASK, Part, Parts, find, is_keras_model, keras_groups
from ..containers.keras_attachments import CONFIG
from ..containers.keras_store import Store, read_store
from ..containers.keras_writer import (
    Beside,
    Weights,
    leftovers,
    plan_archive,
    plan_file,
    plan_folder,
    plan_shards,
)
from ..containers.messages import MemorySource
from ..errors import ConvertError, CorruptFileError, TargetError, UsageError
from ..graphs.keras_config import Layer, major_of, optimizer, parse
from ..graphs.keras_given import LABELS, Given, given, labels_of
from ..graphs.keras_layout import KERAS_3, Layout
from ..graphs.keras_names import Described, QuantisedLayer, describe
from ..graphs.keras_quantisation import dequantise
from ..graphs.keras_targets import Fit, fit, fit_by_key, looks_like_key
from ..graphs.optimizer_facts import optimizers_of_layer
from ..graphs.told_uses import uses_of_model
from ..notes import Kind, Note
from ..output import Plan, PlannedFile, ReadBack
from ..registry import Format, Location, ReadOptions, WriteOptions
from ..sources import Source
from ..tensors import Origin, Tensor, TensorDict

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["FORMAT"]


def _open(location: Location, options: ReadOptions) -> TensorDict:
    wanted = options.names == "readable" or options.dequantize
    parts = find(location, verify=options.verify, config=wanted)
    try:
        store = _join(parts, verify=options.verify)
        return _tensors(parts, store, options)
    except BaseException as error:
        parts.close()
        if isinstance(error, ConvertError) and error.path is None:
            error.path = str(location.path)
        raise


def _join(parts: Parts, *, verify: bool) -> Store:
    """Return the datasets of all weights files."""
    whole = Store({}, {}, [])
    for part in parts.parts:
        store = read_store(part.source, verify=verify)
        _check_groups(part, store)
        for path, tensor in store.tensors.items():
            key = _key(part, path)
            if key in whole.tensors:
                raise CorruptFileError(
                    "is in two shards", path=part.source.path, where=f"dataset `{key}`"
                )
            whole.tensors[key] = tensor
        labels = {_key(part, path): label for path, label in store.labels.items()}
        whole.labels.update({path: whole.labels.get(path) or labels[path] for path in labels})
        whole.notes.extend(store.notes)
    return whole


def _key(part: Part, path: str) -> str:
    return f"{part.label}/{path}" if part.label else path


def _check_groups(part: Part, store: Store) -> None:
    missing = part.groups - set(store.labels) if part.groups else None
    if missing:
        raise CorruptFileError(
            "is not what its index says",
            path=part.source.path,
            expected=f"a group `{min(missing)}`",
            got="none",
            hint="copy index and shards together again",
        )


def _tensors(parts: Parts, store: Store, options: ReadOptions) -> TensorDict:
    major = _major(parts, store)
    model = parse(parts.config, major)
    readable = options.names == "readable"
    specs = {key: tensor.spec for key, tensor in store.tensors.items()}
    compiled = optimizer(parts.config, major)
    described = describe(specs, store.labels, model, compiled, readable=readable)
    names = {origin.key: name for name, origin in described.origins.items()}
    tensors = {name: store.tensors[origin.key] for name, origin in described.origins.items()}
    origins = dict(described.origins)
    notes = [*parts.notes, *store.notes, *_naming_notes(parts, described)]
    notes.extend(_quantised_notes(described.quantised, options))
    if options.dequantize:
        notes.extend(_dequantise(described, names, tensors, origins))
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title} {parts.kind}{_shards(parts.shards)}",
        tensors=tensors,
        origins=origins,
        notes=tuple(notes),
        attachments={**parts.attachments, LABELS: _labels(parts, store)},
        uses=uses_of_model(model, origins),
        details=_details(parts, model, compiled, described),
        sources=tuple(parts.sources),
    )


def _labels(parts: Parts, store: Store) -> Source:
    """Return the names of objects, which a writer of the same format keeps."""
    return MemorySource(parts.parts[0].source.path, json.dumps(store.labels).encode("ascii"))


def _major(parts: Parts, store: Store) -> int:
    """Return the major version of the writer; tf_keras counts as 2."""
    number = (parts.version or "").partition(".")[0]
    if number.isdecimal() and len(number) < 4:
        return int(number)
    if any(store.labels.values()):  # only Keras 3.6 and later name their groups
        return 3
    return major_of(parts.config)


def _shards(count: int) -> str:
    return f", {count} shard{'s' if count > 1 else ''}" if count else ""


def _details(
    parts: Parts, model: Layer | None, compiled: Layer | None, described: Described
) -> dict[str, object]:
    details: dict[str, object] = {"kind": parts.kind, "producer": "Keras"}
    if parts.shards:
        details["shards"] = parts.shards
    if parts.version:
        details["producer_version"] = parts.version
    if model is not None:
        details["model"] = model.kind
        details["model_name"] = model.name
    optimizers = optimizers_of_layer(compiled)
    if optimizers:
        details["optimizers"] = optimizers
    if described.lora:
        details["lora_rank"] = described.lora
    modes = {each.name: each.layer.mode or "not said" for each in described.quantised}
    if modes:
        details["quantised"] = modes
    return details


def _naming_notes(parts: Parts, described: Described) -> Iterable[Note]:
    if described.mismatched:
        text = (
            f"{described.mismatched} groups bear other names than the config: "
            "their variables are named by the file alone"
        )
        yield Note(Kind.SOURCE, text)
    if parts.config is not None and parse(parts.config, 3) is None:
        yield Note(Kind.SOURCE, "the config is none of a model, and gives no names")


# Quantised weights


def _quantised_notes(layers: Iterable[QuantisedLayer], options: ReadOptions) -> Iterable[Note]:
    counts = Counter(each.layer.mode or "integers" for each in layers)
    if counts and not options.dequantize:
        modes = ", ".join(f"{count} in {mode}" for mode, count in sorted(counts.items()))
        text = f"quantised layers ({modes}) are kept as stored, with their scales (--dequantize)"
        yield Note(Kind.SOURCE, text)


def _dequantise(
    described: Described,
    names: Mapping[str, str],
    tensors: dict[str, Tensor],
    origins: dict[str, Origin],
) -> Iterable[Note]:
    """Put real weights in the place of integers; scales that are used up go."""
    done = 0
    for each in described.quantised:
        stored = {variable: tensors[names[key]] for variable, key in each.keys.items()}
        real = dequantise(each.layer, stored)
        if real is None:
            text = f"`{each.name}`: kept as stored, since its real values are not certain"
            yield Note(Kind.SOURCE, text)
            continue
        done += 1
        for variable, tensor in real.tensors.items():
            tensors[names[each.keys[variable]]] = tensor
        for variable in real.used:
            name = names[each.keys[variable]]
            del tensors[name], origins[name]
    if done:
        yield Note(Kind.SOURCE, f"{done} layers dequantised; their scales are left out")


# Writing

ROOT = "vars"  # the model's own variables; tf_keras wants the group, empty or not
_Kind = Literal["archive", "file", "folder", "shards"]
_ENDINGS: Mapping[str, _Kind] = {
    ".keras": "archive", ".weights.h5": "file", ".weights.json": "shards",
}  # fmt: skip


def _plan(tensors: TensorDict, target: Path, options: WriteOptions) -> Plan:
    kind = _kind(target, options)
    config = given(tensors, options.config)
    if kind in ("archive", "folder"):
        _check_config(config, tensors, target)
    fitting = _fit(tensors, config, target)
    weights = _weights(tensors, fitting, config)
    files, notes = _files(kind, weights, config, target, options)
    stored = _stored_names(tensors, fitting, config if kind in ("archive", "folder") else None)
    return Plan(
        FORMAT.name,
        files,
        stored,
        (*notes, *_target_notes(kind, fitting, stored, options)),
        target if kind == "folder" else None,
        removed=_removed(kind, files, target),
        read_back=ReadBack(FORMAT.name, fitting.keys),
        sources=tuple(config.assets.values()) if config and not config.own else (),
    )


def _removed(kind: _Kind, files: Iterable[PlannedFile], target: Path) -> tuple[Path, ...]:
    if kind not in ("folder", "shards"):
        return ()
    return leftovers(target, files, folder=kind == "folder")


def _kind(target: Path, options: WriteOptions) -> _Kind:
    if options.folder:
        return "folder"
    found = [kind for ending, kind in _ENDINGS.items() if target.name.endswith(ending)]
    if not found:
        raise UsageError(
            "Keras loads no file with this ending as one of Keras 3", path=target,
            expected=f"{', '.join(_ENDINGS)} or a folder", got=f"`{target.name}`",
        )  # fmt: skip
    if options.max_shard_bytes is not None and found[0] != "shards":
        raise UsageError(
            "Keras reads this from one file", path=target, hint="name it …weights.json for shards"
        )
    return found[0]


def _check_config(config: Given | None, tensors: TensorDict, target: Path) -> None:
    """Refuse to write a whole model of which only the weights are known."""
    hint = "name one with --config config.json or --config model.keras"
    if tensors.format == KERAS_3 or config is not None:
        hint += ", or write .weights.h5"
    if config is None or not config.text:
        what = "a Keras model is its weights and a config, and there is no config"
        raise UsageError(what, path=target, hint=hint)
    if config.legacy:
        what = f"the config of the legacy file {config.path} is not one that .keras loads with"
        raise UsageError(what, path=target, hint=hint)


def _fit(tensors: TensorDict, config: Given | None, target: Path) -> Fit:
    """Return which tensor goes where.

    Raises:
        TargetError: some tensors do not fit the config.
        UsageError: there is no config, and nothing else tells where tensors go.
    """
    origins = {name: tensors.origin(name) for name in tensors}
    own = tensors.format == KERAS_3 and (config is None or config.own)
    if own and any(origin.key.startswith(f"{TASK}/") for origin in origins.values()):
        raise UsageError(
            "the source is a preset of two weights files, and a model has one", path=target,
            hint=f"convert `model.weights.h5` and `{TASK}` one by one",
        )  # fmt: skip
    if config is not None and not (own and config.model is None):
        return _fit_config(tensors, config, target)
    if own:
        keys = {name: origin.key for name, origin in origins.items()}
        return _by_key(fit_by_key(keys, labels_of(tensors)), target)
    if tensors and all(map(looks_like_key, tensors)):
        return _by_key(fit_by_key({name: name for name in tensors}, {}), target)
    raise UsageError(
        "names alone do not tell where Keras looks for a variable", path=target,
        hint="name the model's config with --config config.json or --config model.keras",
    )  # fmt: skip


def _by_key(found: Fit, target: Path) -> Fit:
    if found.extra:
        names = ", ".join(f"`{name}`" for name in found.extra)
        raise TargetError(
            f"no place in a Keras file is known of {names}", path=target,
            hint="name the model's config with --config, or leave them out with --exclude",
        )  # fmt: skip
    return found


def _fit_config(tensors: TensorDict, config: Given, target: Path) -> Fit:
    layout = config.layout(tensors)
    own = tensors.format == KERAS_3 and config.own
    found = fit(layout, tensors, config.optimizer, config.beside, own=own)
    if own:
        for group, label in fit_by_key({}, labels_of(tensors)).labels.items():
            found.labels[group] = label or found.labels.get(group)
    if found.problem:
        raise TargetError(
            f"does not fit the config of {config.path}: {found.problem}",
            path=target,
            hint=_hint(layout, found),
        )
    return found


def _hint(layout: Layout, found: Fit) -> str:
    custom = [
        name
        for name in layout.open
        if not name or any(extra.startswith(f"{name}/") for extra in found.extra)
    ]
    if found.extra and custom:
        what = ", ".join(f"`{name}`" for name in custom if name) or "the model"
        return (
            f"a config does not tell what a class holds that is not Keras's own, as that of {what};"
            " name a model of the same class with --config model.keras"
        )
    return found.hint


def _weights(tensors: TensorDict, fitting: Fit, config: Given | None) -> Weights:
    # tf_keras reads bfloat16 only where HDF5 knows what it is.
    opaque = config is None or config.keras >= 3
    datasets = [NewDataset(key, name, tensors[name], opaque) for key, name in fitting.keys.items()]
    return Weights(datasets, {ROOT: None} | fitting.labels)


def _files(
    kind: _Kind, weights: Weights, config: Given | None, target: Path, options: WriteOptions
) -> tuple[tuple[PlannedFile, ...], tuple[Note, ...]]:
    if kind == "shards":
        return plan_shards(weights, options.max_shard_bytes, target)
    if kind == "file" or config is None:
        return (plan_file(weights, target),), ()
    beside = Beside(config.text, config.metadata or _metadata(config), config.assets)
    if kind == "folder":
        return plan_folder(weights, beside, options.max_shard_bytes, target)
    return (plan_archive(weights, beside, target),), ()


def _metadata(config: Given) -> bytes:
    """Return metadata for a config without any: without them Keras overlooks assets."""
    return json.dumps({"keras_version": config.version or str(config.keras)}).encode("ascii")


def _stored_names(tensors: TensorDict, fitting: Fit, config: Given | None) -> dict[str, str]:
    """Return the names that are others when the target is read, config or not."""
    specs = {key: tensors[name].spec for key, name in fitting.keys.items()}
    model = config.model if config else None
    described = describe(specs, fitting.labels, model, config.optimizer if config else None)
    read = {fitting.keys[origin.key]: name for name, origin in described.origins.items()}
    return {
        name: other
        for name, other in read.items()
        if name not in described.origins and not looks_like_key(name)
    }


def _target_notes(
    kind: _Kind, fitting: Fit, stored: Mapping[str, str], options: WriteOptions
) -> Iterable[Note]:
    for name in fitting.dropped:
        yield Note(Kind.DROPPED, "Keras keeps no such variable in a file of this model", name)
    if stored:
        first, other = next(iter(stored.items()))
        text = f"{len(stored)} tensors read back under other names: `{first}` as `{other}`"
        yield Note(Kind.TARGET, text)
    if kind == "folder" and options.max_shard_bytes is not None:
        text = "Keras reads the weights of a folder in shards with `load_weights` alone"
        yield Note(Kind.TARGET, text)


# Checking


def _audit(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..containers.keras_audit import audit_keras

    nbytes = sum(tensor.nbytes for tensor in tensors.values())
    yield from audit_keras(location, nbytes, verify=options.verify)


def _scan(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..graphs.model_audit import scan_configs

    del location, options
    yield from scan_configs(tensors.attachments, (CONFIG,))


FORMAT = Format(
    name="keras-v3",
    title="Keras 3",
    extensions=(".keras", ".weights.h5", ".weights.json"),
    sniff=is_keras_model,
    group=keras_groups,
    open=_open,
    plan=_plan,
    options=frozenset({"config", "folder", "max_shard_bytes"}),
    limits="weights pickled in npz; models without a config",
    audit=_audit,
    scan=_scan,
)
