"""Make the models that are measured: `python checkpoints.py FOLDER KIND…`.

All are of float32 random numbers. Checkpoints are name-based, in one shard, written by Tensorferry
itself; Keras files are written by `keras_files.py`. Run as a process of its own, so that the one
that measures stays small. The same kind always has the same bytes.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PREFIX = "model.ckpt"
# Kind: vocabulary, positions, width and layers of a BERT; the last is BERT-large as published.
BERTS = {
    "1MB": (64, 64, 96, 2),
    "100MB": (30_522, 512, 512, 3),
    "600MB": (30_522, 512, 1024, 9),
    "1.3GB": (30_522, 512, 1024, 24),
}
TINY, PAGE = "100k", "10k"
COUNTS = {TINY: 100_000, PAGE: 10_000}
# What looking is measured on: the largest, the same once more, and one of other numbers.
LOOK = "look"
LOOKED_AT, SAME, OTHER = "1.3GB", "1.3GB-same", "1.3GB-other"
SEEDS = {OTHER: 1}
# A recipe that transposes 1.2 GB of the largest.
RECIPE = "recipe"
# Many small models in one folder: how many, and the tensors of each (2 MB).
ZOO, ZOO_COUNT = "zoo", 300
ZOO_SHAPES = {f"block_{number // 3}/part_{number % 3}": (75, 75) for number in range(90)}
# Kind: file, dense layers of two tensors each, and their width.
LEGACY, ARCHIVE, MANY = "h5-440MB", "keras-440MB", "h5-5k"
KERAS = {
    LEGACY: ("model.h5", 100, 1048),
    ARCHIVE: ("model.keras", 100, 1048),
    MANY: ("model.h5", 2500, 152),
}
KINDS = (*BERTS, *COUNTS, *KERAS, LOOK, RECIPE, ZOO)

Shape = tuple[int, ...]


def source_of(folder: Path, kind: str) -> Path:
    """Return what is given to `convert`: the prefix of a checkpoint, or a file."""
    return folder / kind / (KERAS[kind][0] if kind in KERAS else PREFIX)


def files_of(folder: Path, kind: str) -> tuple[Path, ...]:
    """Return the files of a kind: index and data file of a checkpoint, or the one."""
    prefix = source_of(folder, kind)
    if kind in KERAS:
        return (prefix,)
    if kind == ZOO:
        return tuple(file for number in range(ZOO_COUNT) for file in _members(folder, number))
    return (
        prefix.with_name(f"{PREFIX}.index"),
        prefix.with_name(f"{PREFIX}.data-00000-of-00001"),
    )


def _members(folder: Path, number: int) -> tuple[Path, Path]:
    """Return index and data file of a model of the zoo."""
    prefix = folder / ZOO / f"model_{number:03}.ckpt"
    return (
        prefix.with_name(f"{prefix.name}.index"),
        prefix.with_name(f"{prefix.name}.data-00000-of-00001"),
    )


def ensure(folder: Path, kinds: tuple[str, ...]) -> None:
    """Make what is not there yet."""
    if LOOK in kinds:
        kinds = (*(kind for kind in kinds if kind != LOOK), LOOKED_AT, SAME, OTHER, PAGE)
    kinds = tuple(LOOKED_AT if kind == RECIPE else kind for kind in kinds)
    missing = [each for each in dict.fromkeys(kinds) if not files_of(folder, each)[0].exists()]
    if missing:
        subprocess.run([sys.executable, __file__, str(folder), *missing], check=True)


def shapes_of(kind: str) -> dict[str, Shape]:
    """Return the shapes of a checkpoint by tensor name."""
    if kind in COUNTS:
        return dict(_tiny(COUNTS[kind]))
    return dict(_bert(*BERTS[LOOKED_AT if kind in (SAME, OTHER) else kind]))


def _bert(words: int, positions: int, width: int, layers: int) -> Iterator[tuple[str, Shape]]:
    yield "bert/embeddings/word_embeddings", (words, width)
    yield "bert/embeddings/position_embeddings", (positions, width)
    yield "bert/embeddings/token_type_embeddings", (2, width)
    yield from _norm("bert/embeddings/LayerNorm", width)
    for layer in range(layers):
        scope = f"bert/encoder/layer_{layer}"
        for part in ("query", "key", "value"):
            yield from _dense(f"{scope}/attention/self/{part}", width, width)
        yield from _dense(f"{scope}/attention/output/dense", width, width)
        yield from _norm(f"{scope}/attention/output/LayerNorm", width)
        yield from _dense(f"{scope}/intermediate/dense", width, 4 * width)
        yield from _dense(f"{scope}/output/dense", 4 * width, width)
        yield from _norm(f"{scope}/output/LayerNorm", width)
    yield from _dense("bert/pooler/dense", width, width)


def _dense(scope: str, inputs: int, outputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{scope}/kernel", (inputs, outputs)
    yield f"{scope}/bias", (outputs,)


def _norm(scope: str, width: int) -> Iterator[tuple[str, Shape]]:
    yield f"{scope}/gamma", (width,)
    yield f"{scope}/beta", (width,)


def _tiny(count: int) -> Iterator[tuple[str, Shape]]:
    """Yield what a ranking model with thousands of small towers looks like, with Adam's slots."""
    leaves = ("batch_normalization/gamma", "batch_normalization/beta", "dense/bias", "scale")
    slots = ("", "/Adam", "/Adam_1", "/ExponentialMovingAverage", "/Adam/step")
    per_tower = len(leaves) * len(slots)
    for tower in range(count // per_tower):
        scope = f"ranking_model/shared_bottom/feature_tower_{tower:05}/interaction_block"
        for leaf in leaves:
            for slot in slots:
                scalar = leaf == "scale" or slot.endswith("step")
                yield f"{scope}/{leaf}{slot}", () if scalar else (4,)


def _make_keras(folder: Path, kind: str) -> None:
    import keras_files

    path = source_of(folder, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Complete or not there: whoever is interrupted here starts anew.
    part = path.with_name(f"{path.name}.part")
    write = keras_files.write_archive if kind == ARCHIVE else keras_files.write_legacy
    write(part, *KERAS[kind][1:])
    part.rename(path)


def _make_checkpoint(folder: Path, kind: str) -> None:
    prefix = source_of(folder, kind)
    prefix.parent.mkdir(parents=True)
    _write_random(prefix, shapes_of(kind), SEEDS.get(kind, 0))


def _make_zoo(folder: Path) -> None:
    (folder / ZOO).mkdir(parents=True)
    for number in range(ZOO_COUNT):
        index, _ = _members(folder, number)
        _write_random(index.with_suffix(""), ZOO_SHAPES, number)


def _write_random(prefix: Path, shapes: dict[str, Shape], seed: int) -> None:
    import numpy as np
    from tensorferry.converters.dtypes import DType
    from tensorferry.converters.output import write_plan
    from tensorferry.converters.registry import WriteOptions, format_named
    from tensorferry.converters.tensors import Tensor, TensorDict, TensorSpec

    random = np.random.default_rng(seed)

    class Random(Tensor):
        """A tensor of numbers that are made when they are written."""

        __slots__ = ()

        def __init__(self, shape: Shape) -> None:
            self.spec = TensorSpec(DType.FLOAT32, shape)

        def chunks(self, max_bytes: int = 1 << 20) -> Iterator[memoryview]:
            left = self.nbytes
            while left:
                length = min(left, max_bytes)
                values = random.random(length // 4, np.float32) - np.float32(0.5)
                yield memoryview(values).cast("B")
                left -= length

    tensors = {name: Random(shape) for name, shape in shapes.items()}
    plan = format_named("tf-checkpoint").plan
    if plan is None:
        raise RuntimeError("tf-checkpoint cannot be written")
    whole = TensorDict(format="benches", summary="random numbers", tensors=tensors)
    write_plan(plan(whole, prefix, WriteOptions()))


if __name__ == "__main__":
    for each in sys.argv[2:]:
        if each == ZOO:
            _make_zoo(Path(sys.argv[1]))
        else:
            make = _make_keras if each in KERAS else _make_checkpoint
            make(Path(sys.argv[1]), each)
