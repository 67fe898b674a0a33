"""TensorFlow SavedModel: a folder with graphs and, mostly, a checkpoint of their variables.

    saved_model.pb          SavedModel {1 schema version, 2 meta graphs}, or saved_model.pbtxt
    variables/variables.*   a tensor bundle, shared by all meta graphs; may be absent
    assets/                 files, such as vocabularies; listed, not read
    keras_metadata.pb       classes and names of tf_keras layers
    tfhub_module.pb         marks a TF-Hub module of TensorFlow 1

Specified by tensorflow/core/protobuf/{saved_model,meta_graph,saved_object_graph}.proto (v2.21.0)
and tensorflow/python/saved_model/constants.py. A meta graph with an object graph is TensorFlow
2's: its objects have the numbers of those in the bundle, which leads from names to keys. Without
one it is TensorFlow 1's: the keys are names.

Not read: what the functions compute, contents of tables that come from assets, and the chunked
`saved_model.cpb`, which no public TensorFlow writes. Nothing is executed.

Producers and their quirks: Keras 3's `export` stores every weight twice; TensorFlow 2.0 to 2.2
writes two shards; `SavedModelBuilder` writes one meta graph for each set of tags; JAX and
`tf.constant` leave weights in Const nodes.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..containers.bundle_writer import plan_bundle
from ..containers.graph_kinds import binary_source, is_saved_model, is_saved_model_text
from ..containers.graph_proto import MetaGraph, asset_collection, meta_graphs
from ..containers.keras_metadata import (
    KerasObject,
    describe_object,
    metadata_texts,
    read_keras_metadata,
)
from ..containers.messages import Body
from ..containers.saved_model_files import (
    FINGERPRINT,
    GRAPH_FILES,
    VARIABLES,
    FoundModel,
    find_model,
    is_copied,
    is_model_folder,
    is_part,
    model_groups,
    variables_prefix,
)
from ..containers.tensor_bundle import Bundle, index_path
from ..errors import ConvertError, CorruptFileError, NotRecognisedError, UsageError
from ..graphs.constants import read_constants
from ..graphs.keras_object_names import names_in_models
from ..graphs.meta_graph import META_BYTES, GraphFacts, graph_facts
from ..graphs.object_aliases import aliases
from ..graphs.object_graph import describe
from ..graphs.optimizer_facts import optimizers_of_metadata
from ..graphs.saved_object_graph import (
    SavedObjectGraph,
    duplicates,
    with_metrics,
    with_saved_names,
)
from ..graphs.templates import attach, attached
from ..graphs.told_uses import uses_of_variables
from ..graphs.trackables import GRAPH_KEY, ObjectGraph
from ..graphs.variable_roles import describe_variables
from ..notes import Kind, Note
from ..output import Plan, ReadBack
from ..registry import Format, Location, ReadOptions, WriteOptions
from ..sources import FileSource, Source
from ..tensors import Origin, Tensor, TensorDict, variant_notes, with_texts

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["FORMAT"]

_HUB = "tfhub_module.pb"
_KERAS = "keras_metadata.pb"
_INIT_SIGNATURE = "__saved_model_init_op"  # has no input and an output without a type
_SERVE = frozenset({"serve"})


def _sniff(location: Location) -> bool:
    if location.path.is_dir():
        return is_model_folder(location.path)
    if not location.is_file:
        return False
    if location.path.name in GRAPH_FILES:
        return True
    if location.head[:2] != b"\x08\x01":
        return is_saved_model_text(location.head)
    source = FileSource(location.path)
    try:
        return is_saved_model(source)
    finally:
        source.close()


def _open(location: Location, options: ReadOptions) -> TensorDict:
    found = find_model(location.path, step=options.step, latest=options.latest)
    model = _Model(found, options)
    try:
        return model.open()
    except BaseException as error:
        model.close()
        if isinstance(error, ConvertError) and error.path is None:
            error.path = str(found.graph)
        raise


def _graph_source(path: Path) -> Source:
    """Return the SavedModel message; a text made binary, in memory."""
    source = FileSource(path)
    if path.suffix == ".pbtxt" or is_saved_model_text(Location(path).head):
        return binary_source(source, "SavedModel")
    return source


class _Model:
    """Opens one SavedModel."""

    def __init__(self, found: FoundModel, options: ReadOptions) -> None:
        self._found = found
        self._options = options
        self._sources: list[Source] = []
        self._notes: list[Note] = list(found.notes)
        self._details: dict[str, object] = {}
        self._objects: list[KerasObject] | None = None
        self._object_graph = b""
        self._copies: dict[str, str] = {}

    def open(self) -> TensorDict:
        self._sources.append(_graph_source(self._found.graph))
        graphs = meta_graphs(Body.whole(self._sources[0]))
        meta = self._choose(graphs)
        saved = SavedObjectGraph.parse(meta.object_graph) if meta.object_graph else None
        bundle = self._bundle()
        stored = bundle.tensors if bundle else {}
        broken = bundle.broken if bundle else {}
        origins = self._variables(meta, saved, bundle) if bundle else {}
        unreadable = {
            name: broken[origin.key] for name, origin in origins.items() if origin.key in broken
        }
        tensors = {name: stored[origin.key] for name, origin in origins.items()}
        origins = dict(with_texts(origins, tensors))
        self._notes += variant_notes(tensors)
        variables = dict(origins)
        for name, tensor, origin in list(self._constants(meta, tensors)):
            tensors[name], origins[name] = tensor, origin
        details = self._facts(graphs, meta, saved) | self._details
        graph = self._object_graph
        return TensorDict(
            format=FORMAT.name,
            summary=self._summary(meta, saved),
            tensors=tensors,
            origins=origins,
            notes=tuple(self._notes),
            broken=unreadable,
            attachments=attach(self._found.prefix, graph, variables, self._copies) if graph else {},
            uses=uses_of_variables(lambda: meta.graph, origins, tensors, self._copies),
            details=details,
            sources=tuple(self._sources),
        )

    def close(self) -> None:
        """Close what was opened."""
        for source in self._sources:
            source.close()

    # Which of the graphs

    def _choose(self, graphs: list[MetaGraph]) -> MetaGraph:
        """Return the meta graph that was asked for, or the one meant without being named."""
        if not graphs:
            raise CorruptFileError("no meta graph")
        wanted = self._options.tag_set
        if wanted is not None:
            fitting = [graph for graph in graphs if graph.tags == wanted]
        else:
            fitting = self._default(graphs)
        if len(fitting) == 1:
            return fitting[0]
        several = f"{len(fitting)} of them have" if fitting else "none has"
        raise UsageError(
            f"{len(graphs)} meta graphs, and {several} the tags {_tags(wanted or _SERVE)}",
            path=self._found.graph,
            hint=f"choose with --tag-set: {', '.join(_tags(graph.tags) for graph in graphs)}",
        )

    def _default(self, graphs: list[MetaGraph]) -> list[MetaGraph]:
        if len(graphs) == 1:
            return graphs
        usual = [_SERVE, frozenset[str]()]
        if (self._found.folder / _HUB).is_file():  # a module without tags is a hub's default
            usual.reverse()
        found = [[graph for graph in graphs if graph.tags == tags] for tags in usual]
        return found[0] or found[1]

    # Variables

    def _bundle(self) -> Bundle | None:
        prefix = self._found.prefix
        if not index_path(prefix).is_file():
            if any(prefix.parent.glob("variables.data-*")):
                raise NotRecognisedError(
                    "the variables have no index",
                    path=index_path(prefix),
                    hint="copy the model again; without the index nobody knows what is where",
                )
            return None
        bundle = Bundle.open(prefix, verify=self._options.verify)
        self._notes += bundle.notes
        self._sources += bundle.sources
        return bundle

    def _variables(
        self, meta: MetaGraph, saved: SavedObjectGraph | None, bundle: Bundle
    ) -> dict[str, Origin]:
        """Return by name where each tensor of the bundle comes from, and what it is for."""
        keys = [key for key in bundle.tensors if key != GRAPH_KEY]
        if GRAPH_KEY not in bundle.tensors:
            shapes = {key: bundle.tensors[key].spec.shape for key in keys}
            return describe_variables(keys, self._graph_facts(meta, keys), shapes)
        try:
            data = b"".join(bundle.tensors[GRAPH_KEY].elements())
            graph = ObjectGraph.parse(data)
        except CorruptFileError as error:
            text = f"the object graph cannot be read, so names are keys: {error.message}"
            self._notes.append(Note(Kind.METADATA_LOST, text))
            return {key: Origin(key) for key in keys}
        self._object_graph = data
        readable = self._options.names == "readable"
        if saved is None or not saved.fits(graph):
            if saved is not None:
                self._note(
                    "its objects are not those of its variables, which alone are used: "
                    f"{len(saved.nodes)} and {len(graph.nodes)}"
                )
            return self._with_aliases(graph, describe(graph, keys, readable=readable))
        graph = with_saved_names(graph, saved)
        if readable:
            keys = self._fold(graph, saved, keys, bundle)
        names = names_in_models(graph, self._keras(saved))
        trainable = saved.trainable()
        origins = describe(graph, keys, readable=readable, trainable=trainable, names=names)
        return self._with_aliases(graph, with_metrics(graph, saved, origins))

    def _with_aliases(self, graph: ObjectGraph, origins: dict[str, Origin]) -> dict[str, Origin]:
        found = aliases(graph, origins)
        if found:
            self._details["aliases"] = found
        return origins

    def _graph_facts(self, meta: MetaGraph, keys: list[str]) -> GraphFacts:
        if meta.graph and meta.graph.length > META_BYTES:  # it holds weights itself
            meta = replace(meta, graph=None)
        try:
            facts = graph_facts(meta, keys)
        except CorruptFileError as error:
            self._note(f"its graph tells nothing, so roles are read off names: {error.what}")
            return GraphFacts()
        self._optimizers(facts.optimizers)
        unsaved = {key: (key,) for key in keys if key not in facts.saved and key in facts.listed}
        return replace(facts, saved={**facts.saved, **unsaved})

    def _fold(
        self, graph: ObjectGraph, saved: SavedObjectGraph, keys: list[str], bundle: Bundle
    ) -> list[str]:
        """Return the keys without those under which Keras 3 has stored a weight once more."""
        if not self._options.verify:  # then the tensors do not carry their checksums
            bundle = Bundle.open(self._found.prefix)
        second = duplicates(graph, saved, keys, partial(_content, bundle))
        if second:
            count = f"{len(second)} weight{'s are' if len(second) > 1 else ' is'}"
            self._note(
                f"{count} stored twice, as Keras 3 does: `variables/…` is read, `_all_variables/…` "
                "with the same name, type, shape and checksum is not (--names key reads both)"
            )
            self._details["stored_twice"] = self._copies = second
        return [key for key in keys if key not in second]

    # Constants

    def _constants(
        self, meta: MetaGraph, variables: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, Tensor, Origin]]:
        """Yield the Const nodes, where they are wanted: all, or those that are not for saving."""
        wanted = self._options.constants
        numeric = any(not tensor.spec.dtype.variable for tensor in variables.values())
        if meta.graph is None or wanted is False or (wanted is None and numeric):
            return
        found = read_constants(meta.graph)
        left_out = frozenset() if wanted else found.plumbing
        names = [name for name in found.tensors if name not in left_out]
        if names and not wanted:
            self._note("there are no variables; read are the constants of the graph")
        self._details["constants"] = len(names)
        for name in names:
            free = name
            while free in variables:  # the node's output has this name
                free += ":0"
            yield free, found.tensors[name], found.origins[name]._replace(key=free)

    # What there is to know

    def _summary(self, meta: MetaGraph, saved: SavedObjectGraph | None) -> str:
        parts = [
            "TF-Hub module" if (self._found.folder / _HUB).is_file() else FORMAT.title,
            f"of TensorFlow {meta.producer}" if meta.producer else "",
        ]
        kind = "objects" if saved else "TensorFlow 1 style"
        return f"{' '.join(filter(None, parts))}, tags {_tags(meta.tags)}, {kind}"

    def _facts(
        self, graphs: list[MetaGraph], meta: MetaGraph, saved: SavedObjectGraph | None
    ) -> dict[str, object]:
        folder = self._found.folder
        return {
            "kind": "TF2" if saved else "TF1",
            "folder": str(folder),
            "graph": self._found.graph.name,
            "producer": "TensorFlow",
            "producer_version": meta.producer,
            "tags": sorted(meta.tags),
            "tag_sets": [sorted(graph.tags) for graph in graphs],
            "hub": (folder / _HUB).is_file(),
            "signatures": {
                name: each.json()
                for name, each in sorted(meta.signatures.items())
                if name != _INIT_SIGNATURE
            },
            "assets": list(meta.assets) or asset_collection(meta),
            "keras": [each._asdict() for each in self._keras(saved)],
            "other_versions": [str(other) for other in self._found.others],
        }

    def _keras(self, saved: SavedObjectGraph | None) -> list[KerasObject]:
        """Return what Keras notes about layers: in a file beside, or in the objects themselves."""
        if self._objects is None:
            self._objects = self._read_keras(saved)
        return self._objects

    def _read_keras(self, saved: SavedObjectGraph | None) -> list[KerasObject]:
        path = self._found.folder / _KERAS
        if not path.is_file():
            nodes = [
                (number, node.identifier, node.metadata)
                for number, node in enumerate(saved.nodes if saved else ())
                if node.identifier.startswith("_tf_keras_") and node.metadata
            ]
            self._optimizers(optimizers_of_metadata(text for _, _, text in nodes))
            return [describe_object(*node) for node in nodes]
        source = FileSource(path)
        try:
            self._optimizers(optimizers_of_metadata(metadata_texts(Body.whole(source))))
            return list(read_keras_metadata(Body.whole(source)))
        except ConvertError as error:
            self._note(f"`{_KERAS}` cannot be read: {error.message}")
            return []
        finally:
            source.close()

    def _optimizers(self, found: Sequence[Mapping[str, object]]) -> None:
        if found:
            self._details["optimizers"] = found

    def _note(self, text: str) -> None:
        self._notes.append(Note(Kind.SOURCE, text))


def _content(bundle: Bundle, key: str) -> Hashable | None:
    """Return type, shape and checksums of what is stored, None where there are none."""
    tensor = bundle.tensors[key]
    extents = tensor.extents
    if extents is None or any(extent.checksum is None for extent in extents):
        return None
    return tensor.spec, tuple(extent.checksum for extent in extents)


def _tags(tags: frozenset[str]) -> str:
    return f"`{','.join(sorted(tags))}`" if tags else "`` (none)"


# Writing


def _plan(tensors: TensorDict, target: Path, options: WriteOptions) -> Plan:
    from ..containers.template_files import check_apart, copied_files, replaced_files
    from ..graphs.template_fit import MODEL, fit  # few runs need them

    found = _template(target, options)
    sources = (getattr(source, "place", source.path) for source in tensors.sources)
    check_apart(target, found.folder, sources)
    with _open_template(found) as template:
        laid = fit(template, tensors, MODEL, target, options.template or found.folder)
    bundle = plan_bundle(variables_prefix(target), laid.rows, target, options.max_shard_bytes)
    others = copied_files(found.folder.resolve(), target, is_copied)
    others.sort(key=lambda file: file.path == target / found.graph.name)  # it comes last
    files = (*bundle.shards, bundle.index, *others)
    return Plan(
        FORMAT.name,
        files,
        stored_names=laid.stored_names(),
        notes=(*laid.notes, *_left_out(found)),
        folder=target,
        removed=replaced_files(target, files, is_part),
        read_back=ReadBack("tf-checkpoint", laid.keys, f"{VARIABLES}/{VARIABLES}"),
        sources=(*laid.sources, *(extent.source for file in others for _, extent in file.copied)),
    )


def _template(target: Path, options: WriteOptions) -> FoundModel:
    """Return the model whose graph, assets and signatures are taken over."""
    if target.suffix in FORMAT.extensions:
        raise UsageError(
            "a SavedModel is a folder, not a file", path=target, hint="name the folder to make"
        )
    if options.template is None:
        raise UsageError(
            "weights alone make no SavedModel: graph and signatures are those of another one",
            path=target,
            hint="name it with --template DIR",
        )
    found = find_model(options.template)
    if not index_path(found.prefix).is_file():
        raise UsageError(
            "has no variables that could be replaced",
            path=options.template,
            expected=f"`{VARIABLES}/{VARIABLES}.index`",
            got="none",
        )
    return found


def _open_template(found: FoundModel) -> TensorDict:
    """Open a template by the first of its graphs: all of them share the variables."""
    source = _graph_source(found.graph)
    try:
        graphs = meta_graphs(Body.whole(source))
        tags = graphs[0].tags if len(graphs) > 1 else None
    finally:
        source.close()
    template = _open(Location(found.graph), ReadOptions(tag_set=tags))
    if template.details["kind"] == "TF2" and attached(template) is None:
        template.close()
        raise CorruptFileError("the object graph of the variables cannot be read", path=found.graph)
    return template


def _left_out(found: FoundModel) -> Iterator[Note]:
    if (found.folder / FINGERPRINT).is_file():
        text = (
            f"`{FINGERPRINT}` is not copied: it is a hash of the template's weights and identifies "
            "that model; TensorFlow loads models without one"
        )
        yield Note(Kind.TARGET, text)


# Checking


def _audit(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..graphs.model_audit import audit_saved_model

    found = find_model(location.path, step=options.step, latest=options.latest)
    yield from audit_saved_model(found, tensors, verify=options.verify)


def _scan(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..graphs.model_audit import scan_saved_model

    del tensors  # all meta graphs count, not only the one that was opened
    found = find_model(location.path, step=options.step, latest=options.latest)
    source = _graph_source(found.graph)
    try:
        yield from scan_saved_model(found, meta_graphs(Body.whole(source)))
    finally:
        source.close()


FORMAT = Format(
    name="saved-model",
    title="TensorFlow SavedModel",
    extensions=(".pb", ".pbtxt"),
    sniff=_sniff,
    open=_open,
    plan=_plan,
    group=model_groups,
    options=frozenset({"folder", "template", "max_shard_bytes"}),
    needs=frozenset({"template"}),
    limits="chunked `.cpb` files; weights alone, without a template",
    audit=_audit,
    scan=_scan,
)
