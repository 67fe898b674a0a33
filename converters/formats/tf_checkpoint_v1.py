r"""TensorFlow checkpoint V1: one table that holds names, shapes and values; until 2017.

    model.ckpt-7                  unsharded, of any name, with no ending of its own
    model.ckpt-7-00000-of-00002   sharded: each file lists and holds a part, slices too
    checkpoint                    text: which is the latest; `model.ckpt-7-?????-of-00002`
    model.ckpt-7.meta             the graph; not needed for values, read for roles

Layout: `containers/tensor_slices.py`. Specified by tensorflow/core/util/saved_tensor_slice.proto
and tensor_slice_reader.cc (v2.21.0).

Keys are full variable names, so names and keys are the same.

Producers and their quirks: TensorFlow 0.5 to 0.12 by default, later ones, 2.21 too, by
`Saver(write_version=V1)`. TensorFlow's own checkpoint reader refuses partitioned variables, half
and complex numbers here; they are read. The export format of TensorFlow Serving's session bundle
is such a checkpoint, called `export`, beside its graph `export.meta`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..containers.checkpoint_files import find, looks_like_checkpoint
from ..containers.checkpoint_groups import slice_groups
from ..containers.tensor_slices import TensorSlices
from ..graphs.told_uses import uses_of_meta
from ..graphs.variable_roles import describe_names, find_meta
from ..registry import Format, Location, ReadOptions
from ..tensors import TensorDict, with_texts

if TYPE_CHECKING:
    from ..findings import Finding

__all__ = ["FORMAT"]


def _sniff(location: Location) -> bool:
    return looks_like_checkpoint(location.path, version=1)


def _open(location: Location, options: ReadOptions) -> TensorDict:
    found = find(location.path, step=options.step, latest=options.latest, version=1)
    slices = TensorSlices.open(found.files, verify=options.verify)
    shapes = {name: tensor.spec.shape for name, tensor in slices.tensors.items()}
    described = describe_names(shapes, find_meta(found.base), shapes=shapes)
    shards = len(found.files)
    return TensorDict(
        format=FORMAT.name,
        summary=f"{FORMAT.title} `{found.prefix.name}`, {shards} shard{'s' if shards > 1 else ''}",
        tensors=slices.tensors,
        origins=with_texts(described.origins, slices.tensors),
        notes=(*found.notes, *found.choice(), *slices.notes, *described.notes),
        broken=slices.broken,
        uses=uses_of_meta(find_meta(found.base), described.origins, slices.tensors),
        details={
            "kind": "name-based",
            "prefix": str(found.prefix),
            "shards": shards,
            **({} if found.step is None else {"step": found.step}),
            **({"optimizers": described.optimizers} if described.optimizers else {}),
            "other_checkpoints": [str(other) for other in found.others],
        },
        sources=slices.sources,
    )


def _audit(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..containers.bundle_audit import audit_surroundings, audit_table
    from ..graphs.model_audit import audit_meta

    del tensors
    found = find(location.path, step=options.step, latest=options.latest, version=1)
    for path in found.files:
        if path.is_file():
            yield from audit_table(path)
    yield from audit_surroundings(found, location.path)
    yield from audit_meta(find_meta(found.base))


def _scan(location: Location, options: ReadOptions, tensors: TensorDict) -> Iterator[Finding]:
    from ..graphs.model_audit import scan_meta

    del tensors
    found = find(location.path, step=options.step, latest=options.latest, version=1)
    yield from scan_meta(find_meta(found.base))


FORMAT = Format(
    name="tf-checkpoint-v1",
    title="TensorFlow checkpoint V1",
    extensions=(),
    sniff=_sniff,
    open=_open,
    audit=_audit,
    scan=_scan,
    group=slice_groups,
)
