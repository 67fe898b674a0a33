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
# What packaging is measured on: the same checkpoint, the gates, and a package of it.
PACKAGE, PACKAGED, POLICY = "package", "1.3GB-packaged", "policy.toml"
GATES = '[forbid]\nnan = true\ninfinity = true\n[limit]\nbytes = "2 GB"\ndtypes = ["float32"]\n'
# Many models in one folder. By kind: how many there are of a width, of 90 square tensors each:
# 300 of 2 MB; and from 2 MB to 92 MB, together 1 GB.
ZOO, MIXED = "zoo", "zoo-mixed"
ZOOS = {ZOO: {75: 300}, MIXED: {506: 4, 253: 16, 75: 120}}
# One tensor of four bytes each, so that all that takes time is the batch itself.
TRIVIAL, TRIVIAL_COUNT = "zoo-trivial", 1000
# Only looked for, never opened: half checkpoints of two files, half single files.
NAMES, NAMES_COUNT, NAMES_IN_FOLDER = "zoo-names", 100_000, 100
# Kind: file, dense layers of two tensors each, and their width.
LEGACY, ARCHIVE, MANY = "h5-440MB", "keras-440MB", "h5-5k"
KERAS = {
    LEGACY: ("model.h5", 100, 1048),
    ARCHIVE: ("model.keras", 100, 1048),
    MANY: ("model.h5", 2500, 152),
}
KINDS = (*BERTS, *COUNTS, *KERAS, LOOK, RECIPE, *ZOOS, TRIVIAL, NAMES, PACKAGE)

Shape = tuple[int, ...]


def source_of(folder: Path, kind: str) -> Path:
    """Return what is given to `convert`: the prefix of a checkpoint, or a file."""
    return folder / kind / (KERAS[kind][0] if kind in KERAS else PREFIX)


def files_of(folder: Path, kind: str) -> tuple[Path, ...]:
    """Return the files of a kind: index and data file of a checkpoint, or the one."""
    prefix = source_of(folder, kind)
    if kind in KERAS:
        return (prefix,)
    if kind == PACKAGED:
        return (folder / PACKAGED / "manifest.json", folder / PACKAGED / "model.safetensors")
    if kind in ZOOS:
        count = sum(ZOOS[kind].values())
        return tuple(file for number in range(count) for file in _members(folder / kind, number))
    if kind == TRIVIAL:
        return tuple(folder / kind / f"model_{number:04}.npz" for number in range(TRIVIAL_COUNT))
    if kind == NAMES:  # not to be read, and too many to list
        return (folder / kind / "list_complete",)
    return (
        prefix.with_name(f"{PREFIX}.index"),
        prefix.with_name(f"{PREFIX}.data-00000-of-00001"),
    )


def _members(folder: Path, number: int) -> tuple[Path, Path]:
    """Return index and data file of a model of a zoo."""
    prefix = folder / f"model_{number:03}.ckpt"
    return (
        prefix.with_name(f"{prefix.name}.index"),
        prefix.with_name(f"{prefix.name}.data-00000-of-00001"),
    )


def ensure(folder: Path, kinds: tuple[str, ...]) -> None:
    """Make what is not there yet."""
    if LOOK in kinds:
        kinds = (*(kind for kind in kinds if kind != LOOK), LOOKED_AT, SAME, OTHER, PAGE)
    if PACKAGE in kinds:
        kinds = (*(kind for kind in kinds if kind != PACKAGE), LOOKED_AT, PACKAGED)
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


def _make_package(folder: Path) -> None:
    from tensorferry.pipeline.package.build import build_package

    (folder / POLICY).write_text(GATES, encoding="ascii")
    build_package(source_of(folder, LOOKED_AT), folder / PACKAGED)


def _make_zoo(folder: Path, kind: str) -> None:
    (folder / kind).mkdir(parents=True)
    widths = (width for width, count in ZOOS[kind].items() for _ in range(count))
    for number, width in enumerate(widths):
        index, _ = _members(folder / kind, number)
        names = (f"block_{at // 3}/part_{at % 3}" for at in range(90))
        _write_random(index.with_suffix(""), dict.fromkeys(names, (width, width)), number)


def _make_trivial(folder: Path) -> None:
    import numpy as np

    files = files_of(folder, TRIVIAL)
    files[0].parent.mkdir(parents=True)
    for path in files:
        np.savez(path, scale=np.float32(1))


def _make_names(folder: Path) -> None:
    """Make files that look like models from outside: names, and the first bytes."""
    for number in range(NAMES_COUNT):
        place = folder / NAMES / f"team_{number // NAMES_IN_FOLDER:04}"
        place.mkdir(parents=True, exist_ok=True)
        if number % 2:
            (place / f"model_{number}.npz").write_bytes(b"PK\x03\x04")
            continue
        (place / f"model.ckpt-{number}.index").write_bytes(b"")
        (place / f"model.ckpt-{number}.data-00000-of-00001").write_bytes(b"")
    files_of(folder, NAMES)[0].touch()


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
        place = Path(sys.argv[1])
        if each in ZOOS:
            _make_zoo(place, each)
        elif each == PACKAGED:
            _make_package(place)
        elif each in (TRIVIAL, NAMES):
            (_make_trivial if each == TRIVIAL else _make_names)(place)
        else:
            (_make_keras if each in KERAS else _make_checkpoint)(place, each)
