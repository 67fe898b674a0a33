r"""TensorFlow checkpoint V2: a tensor bundle under a prefix, name-based or object-based.

    model.ckpt-7.index                  names, dtypes, shapes, places, checksums
    model.ckpt-7.data-00000-of-00001    the bytes
    checkpoint                          text: which prefix is the latest
    model.ckpt-7.meta                   the graph; not needed for values, read for roles

Layout: `containers/tensor_bundle.py`. Specified by tensorflow/core/util/tensor_bundle and
tensorflow/core/protobuf/tensor_bundle.proto (v2.21.0).

Written are name-based files, as tf.compat.v1.train.Saver writes them, and object-based ones. An
object graph is that of the source, which is kept while all tensors are those of it, or that of
another model (`graphs/templates.py`), or is made of the names (`graphs/object_tree.py`).

Producers and their quirks: builds with snappy compress the index; parameter servers and
MaxShardSizePolicy slice variables; s390x writes big endian.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from ..containers.bundle_writer import Row, plan_bundle
from ..containers.checkpoint_files import build_state, find, looks_like_checkpoint
from ..containers.checkpoint_groups import bundle_groups
from ..containers.tensor_bundle import Bundle, bundle_prefix, is_bundle_index
from ..errors import ConvertError, CorruptFileError, NotRecognisedError, TargetError, UsageError
from ..graphs.object_aliases import aliases
from ..graphs.object_graph import GRAPH_KEY, ObjectGraph, describe
from ..graphs.templates import Arrangement, attach, attached, keep_graph
from ..graphs.told_uses import uses_of_meta
from ..graphs.variable_roles import describe_names, find_meta
from ..notes import Kind, Note
from ..output import Plan, PlannedFile, ReadBack
from ..registry import Format, Location, ReadOptions, WriteOptions, claims
from ..tensors import Origin, TensorDict, variant_notes, with_texts
from ..ties import other_names

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["FORMAT"]


OBJECT_BASED = "object-based"
_WITH_GRAPHS = ("tf-checkpoint", "saved-model")  # formats whose object graphs may be taken over


# Reading


def _sniff(location: Location) -> bool:
    if looks_like_checkpoint(location.path):
        return True
    return location.is_file and is_bundle_index(location.path)


def _open(location: Location, options: ReadOptions) -> TensorDict:
    found = find(location.path, step=options.step, latest=options.latest)
    bundle = Bundle.open(found.prefix, verify=options.verify)
    named = _named(bundle, found.prefix, readable=options.names == "readable")
    tensors = bundle.tensors
    if GRAPH_KEY in tensors:
        tensors = {name: bundle.tensors[origin.key] for name, origin in named.origins.items()}
    origins = with_texts(named.origins, tensors)
    shards = bundle.header.shards
    kind = OBJECT_BASED if GRAPH_KEY in bundle.tensors else "name-based"
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title} `{found.prefix.name}`, {kind}, "
        f"{shards} shard{'s' if shards > 1 else ''}",
        tensors=tensors,
        origins=origins,
        notes=(*found.notes, *found.choice(), *bundle.notes, *named.notes, *variant_notes(tensors)),
        broken=_broken(bundle, origins),
        details={
            "kind": kind,
            "prefix": str(found.prefix),
            "shards": shards,
            **({} if found.step is None else {"step": found.step}),
            **({"optimizers": named.optimizers} if named.optimizers else {}),
            "byte_order": "big" if bundle.header.big_endian else "little",
            "other_checkpoints": [str(other) for other in found.others],
            **({"aliases": named.aliases} if named.aliases else {}),
        },
        attachments=attach(found.prefix, named.graph, origins) if named.graph else {},
        uses=uses_of_meta(find_meta(found.prefix), origins, tensors),
        sources=bundle.sources,
    )


class _Named(NamedTuple):
    """By name where each tensor comes from and what it is for, and what else it is called.

    `graph` is the object graph that says so, if there is one.
    """

    origins: Mapping[str, Origin]
    notes: list[Note]
    aliases: Mapping[str, list[str]] = MappingProxyType({})
    graph: bytes = b""
    optimizers: Sequence[Mapping[str, Any]] = ()


def _named(bundle: Bundle, prefix: Path, *, readable: bool) -> _Named:
    if GRAPH_KEY not in bundle.tensors:
        shapes = {key: tensor.spec.shape for key, tensor in bundle.tensors.items()}
        found = describe_names(shapes, find_meta(prefix), shapes=shapes)
        return _Named(found.origins, found.notes, optimizers=found.optimizers)
    keys = [key for key in bundle.tensors if key != GRAPH_KEY]
    try:
        data = b"".join(bundle.tensors[GRAPH_KEY].elements())
        graph = ObjectGraph.parse(data)
    except CorruptFileError as error:
        text = f"the object graph cannot be read, so names are keys: {error.message}"
        return _Named({key: Origin(key) for key in keys}, [Note(Kind.METADATA_LOST, text)])
    origins = describe(graph, keys, readable=readable)
    return _Named(origins, [], aliases(graph, origins), data)


def _broken(bundle: Bundle, origins: Mapping[str, Origin]) -> dict[str, ConvertError]:
    if not bundle.broken or not origins:
        return bundle.broken
    return {
        name: bundle.broken[origin.key]
        for name, origin in origins.items()
        if origin.key in bundle.broken
    }


# Writing


def _plan(tensors: TensorDict, target: Path, options: WriteOptions) -> Plan:
    prefix = bundle_prefix(target) or target
    laid = _arranged(tensors, target, options)
    bundle = plan_bundle(prefix, laid.rows, target, options.max_shard_bytes)
    state, notes = _state_file(prefix, options)
    return Plan(
        FORMAT.name,
        (*bundle.shards, *state, bundle.index),
        stored_names=laid.stored_names(),
        notes=(*laid.notes, *notes),
        read_back=ReadBack(FORMAT.name, laid.keys),
        sources=laid.sources,
    )


def _arranged(tensors: TensorDict, target: Path, options: WriteOptions) -> Arrangement:
    """Return what goes into the bundle under which keys, with or without an object graph."""
    if options.layout_of and options.object_based:
        raise UsageError(
            "--layout-of takes an object graph over, --object-based makes one",
            path=target,
            hint="choose one of the two",
        )
    if options.layout_of:
        return _like(options.layout_of, tensors, target)
    if options.object_based:
        from ..graphs.object_tree import build_tree  # few runs need it

        return build_tree(tensors, target)
    kept = keep_graph(tensors)
    if kept is None:
        return _by_name(tensors, target)
    return kept if tensors.format == FORMAT.name else _renamed(kept, tensors)


def _renamed(kept: Arrangement, tensors: TensorDict) -> Arrangement:
    """Say how many tensors a checkpoint names otherwise than its source did."""
    graph = attached(tensors)
    if graph is None:
        return kept
    origins = describe(ObjectGraph.parse(graph.data), list(kept.keys), readable=True)
    names = {origin.key: name for name, origin in origins.items()}
    others = sum(name != names.get(key, name) for key, name in kept.keys.items() if name)
    if not others:
        return kept
    text = (
        f"{others} tensors open under other names here, those that the object graph alone gives; "
        "their keys are the same"
    )
    return kept._replace(notes=(*kept.notes, Note(Kind.TARGET, text)))


def _like(place: Path, tensors: TensorDict, target: Path) -> Arrangement:
    """Take object graph and keys of another checkpoint, or of a SavedModel."""
    from ..graphs.template_fit import CHECKPOINT, fit  # few runs need it

    location = Location(place)
    found = [each for each in claims(location) if each.name in _WITH_GRAPHS]
    if len(found) != 1:
        raise NotRecognisedError(
            "no object graph to take over",
            path=place,
            expected="a checkpoint or a SavedModel",
            got="something else" if place.exists() else "nothing",
        )
    with found[0].open(location, ReadOptions()) as template:
        if attached(template) is None:
            raise UsageError(
                "has no object graph: its keys are names",
                path=place,
                hint="leave --layout-of out; a checkpoint by name is what is written without it",
            )
        return fit(template, tensors, CHECKPOINT, target, place)


def _by_name(tensors: TensorDict, target: Path) -> Arrangement:
    names = {**{name: name for name in tensors}, **other_names(tensors)}
    for name in names:
        if name in ("", GRAPH_KEY):  # the header's key, and that of a graph
            raise TargetError(
                "a TensorFlow checkpoint keeps this name for itself",
                path=target,
                where=f"tensor `{name}`",
                hint=f"leave it out with --exclude {name!r}",
            )
    notes: tuple[Note, ...] = ()
    if tensors.details.get("kind") == OBJECT_BASED or attached(tensors):
        text = (
            "the object graph is not written, since not all tensors are those of it; "
            "--object-based makes one of the names"
        )
        notes = (Note(Kind.METADATA_LOST, text),)
    rows = [Row(key, name, tensors[name]) for key, name in names.items()]
    return Arrangement(rows, {**names}, notes)


def _state_file(
    prefix: Path, options: WriteOptions
) -> tuple[tuple[PlannedFile, ...], tuple[Note, ...]]:
    """Plan the file `checkpoint`; one that is there belongs to other checkpoints and stays."""
    path = prefix.with_name("checkpoint")
    if path.exists() and not options.overwrite:
        text = "the folder's `checkpoint` file was there already and is left as it is"
        return (), (Note(Kind.TARGET, text),)
    state = build_state(prefix.name)
    return (PlannedFile(path, len(state), literals=((0, state),)),), ()


# Checking


def _audit(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..containers.bundle_audit import audit_bundle, audit_surroundings
    from ..graphs.model_audit import audit_meta

    found = find(location.path, step=options.step, latest=options.latest)
    read = (tensors.origin(name).key for name in tensors)
    yield from audit_bundle(found.prefix, read, verify=options.verify)
    yield from audit_surroundings(found, location.path)
    yield from audit_meta(find_meta(found.prefix))


def _scan(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..graphs.model_audit import scan_meta

    del tensors
    found = find(location.path, step=options.step, latest=options.latest)
    yield from scan_meta(find_meta(found.prefix))


FORMAT = Format(
    name="tf-checkpoint",
    title="TensorFlow checkpoint V2",
    extensions=(".ckpt", ".index"),
    sniff=_sniff,
    open=_open,
    plan=_plan,
    group=bundle_groups,
    options=frozenset({"max_shard_bytes", "object_based", "layout_of"}),
    audit=_audit,
    scan=_scan,
)
