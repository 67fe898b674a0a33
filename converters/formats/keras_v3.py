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
zip keeps of all weights together is not checked for them.

Not read: `model.weights.npz`, which is pickled; assets; Orbax folders; custom objects' names.

Producers and their quirks: 2.12 to 2.14 write `_layer_checkpoint_dependencies` for `layers`; 2.12
to 2.15 on Windows write `layers\dense`; tf_keras writes neither names nor a learning rate, and
metrics; 3.14 and earlier leave out layers that are nested in two lists.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from ..containers.keras_archive import Part, Parts, find, is_keras_model
from ..containers.keras_store import Store, read_store
from ..errors import ConvertError, CorruptFileError
from ..graphs.keras_config import Layer, optimizer, parse
from ..graphs.keras_names import Described, QuantisedLayer, describe
from ..graphs.keras_quantisation import dequantise
from ..notes import Kind, Note
from ..registry import Format, Location, ReadOptions
from ..tensors import Origin, Tensor, TensorDict

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
    major = _major(parts.version, store)
    model = parse(parts.config, major)
    readable = options.names == "readable"
    specs = {key: tensor.spec for key, tensor in store.tensors.items()}
    described = describe(
        specs, store.labels, model, optimizer(parts.config, major), readable=readable
    )
    names = {origin.key: name for name, origin in described.origins.items()}
    tensors = {name: store.tensors[origin.key] for name, origin in described.origins.items()}
    origins = dict(described.origins)
    notes = [*parts.notes, *store.notes, *_naming_notes(parts, described)]
    notes.extend(_quantised_notes(described.quantised, options))
    if options.dequantize:
        notes.extend(_dequantise(described, names, tensors, origins))
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title} {parts.kind}",
        tensors=tensors,
        origins=origins,
        notes=tuple(notes),
        details=_details(parts, model, described),
        sources=tuple(parts.sources),
    )


def _major(version: str | None, store: Store) -> int:
    """Return the major version of the writer; tf_keras counts as 2."""
    number = (version or "").partition(".")[0]
    if number.isdecimal() and len(number) < 4:
        return int(number)
    # Only Keras 3.6 and later name their groups; without a config nothing else depends on it.
    return 3 if any(store.labels.values()) or version is None else 2


def _details(parts: Parts, model: Layer | None, described: Described) -> dict[str, object]:
    details: dict[str, object] = {"kind": parts.kind}
    if parts.version:
        details["keras_version"] = parts.version
    if model is not None:
        details["model"] = model.kind
        details["model_name"] = model.name
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


FORMAT = Format(
    name="keras-v3",
    title="Keras 3",
    extensions=(".keras", ".weights.h5", ".weights.json"),
    sniff=is_keras_model,
    open=_open,
    limits="weights pickled in npz; assets",
)
