"""TensorFlow.js: `model.json` and the files of weights it lists. Read only.

    model.json              {"format": "layers-model" | "graph-model", "generatedBy": …,
                             "modelTopology": Keras config | GraphDef in JSON,
                             "weightsManifest": [group, …]}
    weights_manifest.json   the list of groups alone; before 1.0, beside tensorflowjs_model.pb
    group1-shard1of2.bin …  the weights, see `containers/weights_manifest.py`

Specified by tfjs-core/src/io/types.ts (ModelJSON; TensorFlow.js 4.22.0).

Quantised weights come out as their real values, computed as TensorFlow.js itself does when it
loads a model; it knows no others. Scales and minima are in `details`.

Not read: `tensorflowjs_model.pb`, the graph of the layout before 1.0. Nothing of a topology is
executed; it only tells what weights are for.

Producers and their quirks: the converter narrows int64 to int32 and float64 to float32;
`model.save` in JavaScript writes one file `weights.bin`, and optimizer weights marked
`"group": "optimizer"`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..containers.computed import ComputedTensor
from ..containers.strict_json import JSON_BYTES, read_json
from ..containers.weights_manifest import (
    MANIFESTS,
    Stored,
    Weights,
    is_old_graph,
    read_weights,
    web_groups,
)
from ..dtypes import DType
from ..errors import ConvertError, CorruptFileError
from ..graphs.json_graph import roles_in_graph, signature_of
from ..graphs.name_patterns import STATISTICS, describe_by_name, leaf_of
from ..notes import Kind, Note
from ..registry import Format, Location, ReadOptions
from ..sources import FileSource
from ..tensors import Evidence, Origin, Role, Tensor, TensorDict

if TYPE_CHECKING:
    import numpy as np

    from ..findings import Finding

__all__ = ["FORMAT"]

SHARD_ENDINGS = (".bin",)


# Recognising


def _sniff(location: Location) -> bool:
    return _find(location) is not None


def _find(location: Location) -> Path | None:
    """Return the manifest: the file itself, the one in a folder, or the one beside a shard."""
    path = location.path
    if location.is_file:
        if is_old_graph(path):
            return _find(Location(path.parent))
        if location.head.lstrip()[:1] in (b"{", b"["):
            return path if _is_manifest(location) else None
        return _beside(path)
    if not path.is_dir():
        return None
    found = (path / name for name in MANIFESTS)
    return next((each for each in found if _is_manifest(Location(each))), None)


def _beside(path: Path) -> Path | None:
    """Return the manifest that lists a file of weights."""
    if not path.name.endswith(SHARD_ENDINGS) and not path.name.startswith("group"):
        return None
    for name in MANIFESTS:
        manifest = Location(path.parent / name)
        if _is_manifest(manifest) and f'"{path.name}"'.encode() in _text(manifest):
            return manifest.path
    return None


def _is_manifest(location: Location) -> bool:
    start = location.head.lstrip()[:1]
    if start == b"{":
        return b'"weightsManifest"' in _text(location)
    if start == b"[":
        text = _text(location)
        return b'"weights"' in text and b'"paths"' in text
    return False


def _text(location: Location) -> bytes:
    """Return the head of a file; all of a JSON file, whose manifest may stand at its end."""
    if not location.path.name.lower().endswith(".json"):
        return location.head
    source = FileSource(location.path)
    try:
        return source.read(0, source.size) if source.size <= JSON_BYTES else location.head
    except ConvertError:
        return b""
    finally:
        source.close()


# Opening


def _open(location: Location, options: ReadOptions) -> TensorDict:
    del options  # a weight has one name, and there are no checksums
    path = _find(location) or location.path
    try:
        content = _read_manifest(path)
        weights = read_weights(content.get("weightsManifest"), path.parent)
    except CorruptFileError as error:
        if error.path is None:
            error.path = str(path)
            error.args = (error.message,)
        raise
    kind = content.get("format")
    stored = weights.stored
    return TensorDict(
        format=FORMAT.name,
        summary=" ".join(filter(None, (FORMAT.title, kind if isinstance(kind, str) else ""))),
        tensors={name: _real(each) for name, each in stored.items()},
        origins=_origins(stored, content, path),
        notes=tuple(_notes(stored)),
        broken={name: each.error for name, each in stored.items() if each.error},
        details=dict(_details(weights, content)),
        sources=tuple(weights.sources),
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    source = FileSource(path)
    try:
        content = read_json(source)
    finally:
        source.close()
    if isinstance(content, list):  # before 1.0
        return {"weightsManifest": content}
    if isinstance(content, dict):
        return content
    raise CorruptFileError("JSON", expected="an object or a list", got=type(content).__name__)


def _real(stored: Stored) -> Tensor:
    """Return the values as TensorFlow.js loads them."""
    quantization = stored.quantization
    if quantization is None:
        return stored.tensor
    scale, least = quantization.scale, quantization.min
    if scale is None or least is None:  # float16, which only becomes wider
        return ComputedTensor(stored.spec, stored.tensor, lambda values, _: values)
    whole = stored.spec.dtype is DType.INT32
    return ComputedTensor(stored.spec, stored.tensor, partial(_affine, scale, least, whole))


def _affine(scale: float, least: float, whole: bool, values: np.ndarray, _: int) -> np.ndarray:
    """Return scale * q + min in float64, as JavaScript computes; io_utils.ts, decodeWeight."""
    import numpy as np

    with np.errstate(over="ignore"):
        real = values.astype(np.float64) * scale + least
        if not whole:
            return real.astype(np.float32)
    # JavaScript's Math.round, which takes halves up, into the range of an Int32Array.
    bounds = np.iinfo(np.int32)
    return np.clip(np.floor(real + 0.5), bounds.min, bounds.max).astype(np.int32)


# What is known about the weights


def _origins(
    stored: Mapping[str, Stored], content: Mapping[str, Any], path: Path
) -> dict[str, Origin]:
    topology = content.get("modelTopology")
    if content.get("format") == "graph-model" or _is_graph(topology):
        roles = roles_in_graph(topology, path)
        return {name: _of_graph(name, roles) for name in stored}
    named = describe_by_name(name for name, each in stored.items() if not each.optimizer)
    layers = _layers(topology)
    return {
        name: Origin(name, Role.OPTIMIZER, trainable=False, evidence=Evidence.CONFIG)
        if each.optimizer
        else _of_layers(name, layers) or named[name]
        for name, each in stored.items()
    }


def _is_graph(topology: object) -> bool:
    return isinstance(topology, dict) and "node" in topology


def _of_graph(name: str, roles: Mapping[str, Role]) -> Origin:
    role = roles.get(name)
    if role is None:
        return Origin(name, Role.CONSTANT)
    return Origin(name, role, evidence=Evidence.GRAPH)


def _of_layers(name: str, layers: Mapping[str, bool | None]) -> Origin | None:
    """Return what the config says: a layer of the model holds nothing but its weights."""
    owner = next((part for part in name.split("/")[:-1] if part in layers), None)
    if owner is None:
        return None
    if leaf_of(name) in STATISTICS:
        return Origin(name, Role.STATE, trainable=False, evidence=Evidence.CONFIG)
    return Origin(name, Role.WEIGHT, trainable=layers[owner], evidence=Evidence.CONFIG)


def _layers(topology: object) -> dict[str, bool | None]:
    """Return by name of each layer whether it is trained; None where the config is unclear."""
    found: dict[str, bool | None] = {}
    waiting: list[object] = [topology]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
            config = value.get("config")
            name = config.get("name") if isinstance(config, dict) else None
            if "class_name" in value and isinstance(name, str) and isinstance(config, dict):
                trainable = config.get("trainable")
                flag = trainable if isinstance(trainable, bool) else None
                found[name] = flag if found.get(name, flag) == flag else None
    return found


def _notes(stored: Mapping[str, Stored]) -> Iterator[Note]:
    quantized = [each.quantization.dtype.label for each in stored.values() if each.quantization]
    if quantized:
        text = (
            f"{len(quantized)} of {len(stored)} weights are quantised to "
            f"{' and '.join(sorted(set(quantized)))}; their real values are computed, as "
            "TensorFlow.js does"
        )
        yield Note(Kind.SOURCE, text)


def _details(weights: Weights, content: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for key, label in (
        ("format", "kind"), ("generatedBy", "generated_by"), ("convertedBy", "producer"),
    ):  # fmt: skip
        if isinstance(content.get(key), str):
            yield label, content[key]
    yield "shards", len(weights.sources)
    if isinstance(content.get("signature"), dict):
        yield "signatures", {"default": signature_of(content["signature"]).json()}
    quantized = {
        name: {
            "dtype": each.quantization.dtype.label,
            "scale": each.quantization.scale,
            "min": each.quantization.min,
        }
        for name, each in weights.stored.items()
        if each.quantization
    }
    if quantized:
        yield "quantization", quantized


def _scan(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    """Yield what is dangerous where the model goes back to Python; a browser has no files."""
    from ..graphs.json_graph import graph_of_json
    from ..graphs.risky_config import risky_parts
    from ..graphs.risky_ops import risky_nodes

    del options, tensors
    path = _find(location) or location.path
    topology = _read_manifest(path).get("modelTopology")
    if _is_graph(topology):
        yield from risky_nodes(graph_of_json(topology, path), str(path))
    else:
        yield from risky_parts(topology, str(path), "`modelTopology`")


FORMAT = Format(
    name="tfjs",
    title="TensorFlow.js",
    extensions=(".json",),
    sniff=_sniff,
    open=_open,
    scan=_scan,
    group=web_groups,
)
