"""What is damaged or dangerous in what goes with weights: graphs, assets, configs of Keras."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from ..containers.bundle_audit import audit_bundle
from ..containers.graph_proto import MetaGraph, nodes
from ..containers.keras_metadata import metadata_texts
from ..containers.messages import Body
from ..containers.saved_model_files import FoundModel
from ..containers.strict_json import read_json
from ..containers.tensor_bundle import index_path
from ..errors import ConvertError
from ..findings import Finding, Level
from ..sources import FileSource, Source
from ..tensors import TensorDict
from .meta_graph import read_meta
from .risky_config import risky_parts
from .risky_ops import risky_nodes
from .saved_object_graph import SavedObjectGraph

__all__ = [
    "audit_meta",
    "audit_saved_model",
    "scan_configs",
    "scan_meta",
    "scan_saved_model",
]

JSON_CHARACTERS = 16 << 20  # of one layer; a vocabulary may stand in it


def audit_meta(path: Path | None) -> Iterator[Finding]:
    """Yield a finding where the graph beside a checkpoint does not read to its end."""
    if path is None:
        return
    try:
        meta = read_meta(path)
        for _ in nodes(meta.graph) if meta.graph else ():
            pass
    except ConvertError as error:
        text = f"the graph is damaged: {error.what}"
        yield Finding("integrity/damaged", Level.ERROR, text, path=str(path), where=error.where)


def audit_saved_model(found: FoundModel, tensors: TensorDict, *, verify: bool) -> Iterator[Finding]:
    """Yield findings on the files of a SavedModel: of its variables, and those it lists.

    Args:
        found: the model.
        tensors: what came of opening it.
        verify: whether checksums are checked.
    """
    if index_path(found.prefix).is_file():
        read = (tensors.origin(name).key for name in tensors)
        yield from audit_bundle(found.prefix, read, verify=verify)
    assets = tensors.details.get("assets")
    for name in assets if isinstance(assets, (list, tuple)) else ():
        yield from _audit_asset(found.folder, name)


def _audit_asset(folder: Path, name: str) -> Iterator[Finding]:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or parts[:1] == ("/",):
        text = f"the asset `{name}` leads out of the model"
        yield Finding("security/external-file", Level.ERROR, text, path=str(folder))
    elif not folder.joinpath("assets", name).is_file():
        text = "asset is missing: what is read from it cannot be loaded"
        path = str(folder / "assets" / name)
        yield Finding("integrity/missing-file", Level.ERROR, text, path=path)


# What is dangerous


def scan_meta(path: Path | None) -> Iterator[Finding]:
    """Yield the risky operations of the graph beside a checkpoint, if there is one."""
    if path is not None:
        yield from _scan_graph(read_meta(path), path)


def scan_saved_model(found: FoundModel, graphs: list[MetaGraph]) -> Iterator[Finding]:
    """Yield the risky operations of all meta graphs, and the dangerous parts of Keras layers."""
    for meta in graphs:
        yield from _scan_graph(meta, found.graph)
    yield from _scan_keras_objects(found.folder, graphs)


def _scan_graph(meta: MetaGraph, path: Path) -> Iterator[Finding]:
    if meta.graph is not None:
        yield from risky_nodes(meta.graph, str(path))


def _scan_keras_objects(folder: Path, graphs: Iterable[MetaGraph]) -> Iterator[Finding]:
    """Yield the dangerous parts of what Keras notes about layers in a SavedModel.

    It stands in a file beside the graph, or until TensorFlow 2.4 in the objects themselves. The
    config of a model repeats those of its layers, so what is found twice is told once.
    """
    path = folder / "keras_metadata.pb"
    texts: list[str] = []
    if path.is_file():
        source = FileSource(path)
        try:
            texts = list(metadata_texts(Body.whole(source)))
        finally:
            source.close()
    else:
        for meta in graphs:
            saved = SavedObjectGraph.parse(meta.object_graph) if meta.object_graph else None
            texts += [each.metadata for each in saved.nodes if each.metadata] if saved else []
    found = (each for text in texts for each in _parts(text, path))
    yield from dict.fromkeys(found)


def _parts(text: str, path: Path) -> Iterator[Finding]:
    if len(text) > JSON_CHARACTERS:
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):  # of an object that is not Keras's
        return
    yield from risky_parts(content, str(path), "Keras metadata")


def scan_configs(attachments: Mapping[str, Source], names: Iterable[str]) -> Iterator[Finding]:
    """Yield the dangerous parts of the JSON texts among the attachments of a model.

    Raises:
        CorruptFileError: one is no JSON.
    """
    for name in names:
        if name in attachments:
            source = attachments[name]
            yield from risky_parts(read_json(source), str(source.path), f"`{name}`")
