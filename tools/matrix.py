"""What becomes of every sample in every format that is written: tried, read back and compared.

The table in `docs/formats/matrix.md` and the tests in `tests/pipeline/test_matrix.py` are both made
by `fate`. Which formats there are to write is asked of the registry; a table here only says which
names and flags to try with some of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tensorferry.converters.errors import LossError, TargetError, UsageError
from tensorferry.converters.notes import Kind
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import (
    Format,
    ReadOptions,
    WriteOptions,
    all_formats,
    format_named,
)
from tensorferry.converters.testing.contracts import contents
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.report import Report

SAMPLES = Path(__file__).resolve().parent.parent / "sample_models"

LOSSLESS, LOSSY, REFUSED = "lossless", "lossy", "refused"


class Sample(NamedTuple):
    """A source: a row of the matrix.

    Attributes:
        shown: what the table calls it.
        place: path in the folder of samples.
        config: file with a config of the same model, for Keras.
        template: SavedModel of the same model.
        keras_1: Keras 1 wrote it, in a layout that is no longer used.
    """

    shown: str
    place: str
    config: Path | None = None
    template: Path | None = None
    keras_1: bool = False

    @property
    def path(self) -> Path:
        """Where it lies."""
        return SAMPLES / self.place


def _network(shown: str, place: str) -> Sample:
    """Return a sample of the network that most of them hold."""
    config = SAMPLES / "keras_archive" / "model.keras"
    return Sample(shown, place, config, SAMPLES / "saved_model_keras")


ROWS = (
    Sample("checkpoint V2, name-based", "tf1_adam_ema/model.ckpt-7"),
    Sample("checkpoint V2, partitioned", "tf1_partitioned/model.ckpt-7"),
    Sample("checkpoint V2, every type", "all_dtypes/bundle"),
    Sample("checkpoint V2, object-based", "tf_module_object/ckpt-1"),
    _network("checkpoint V2 of tf_keras", "tf_keras_object/ckpt-1"),
    _network("checkpoint V2 of Keras 3", "keras3_object/ckpt-1"),
    Sample("checkpoint V1", "tf1_v1/model.ckpt-7"),
    Sample("SavedModel", "saved_model_module", template=SAMPLES / "saved_model_module"),
    _network("SavedModel of Keras 3", "saved_model_keras"),
    Sample("frozen graph", "frozen_graph/frozen.pb"),
    Sample("TensorFlow Lite", "tflite_dense/model.tflite"),
    _network("TensorFlow.js, layers", "tfjs_layers/model.json"),
    Sample("TensorFlow.js, graph", "tfjs_graph/model.json"),
    Sample("`.h5` of Keras 1", "old_releases/keras_1_2_2/nested.h5", keras_1=True),
    _network("`.h5` of tf_keras", "tf_keras_h5/model.h5"),
    _network("`.keras`", "keras_archive/model.keras"),
    _network("`.weights.h5`", "keras_weights/model.weights.h5"),
    _network("`.weights.json`", "keras_shards/model.weights.json"),
    _network("HDF5", "hdf5_file/model.h5"),
    _network("npz", "npz_file/model.npz"),
    _network("safetensors", "safetensors_file/model.safetensors"),
)


class Target(NamedTuple):
    """What is written: a column of the matrix.

    Attributes:
        shown: what the table calls it.
        format: name of the format.
        name: the file or folder to write.
        tries: sets of flags; the first that is not refused counts. Those that name another model
            are for samples with such a model only.
    """

    shown: str
    format: str
    name: str
    tries: tuple[tuple[str, ...], ...] = ((),)


MODERN = "--keras1 modern"
_KERAS = ((), ("--config",), ("--config", "--weights-only"), (MODERN,))

# Where the first ending, without any flag, is not all that there is to say of a format.
SPECIAL: Mapping[str, tuple[Target, ...]] = {
    "tf-checkpoint": (
        Target("checkpoint", "tf-checkpoint", "out.ckpt"),
        Target("checkpoint, object-based", "tf-checkpoint", "out.ckpt", (("--object-based",),)),
    ),
    "saved-model": (
        Target(
            "SavedModel",
            "saved-model",
            "out",
            ((), ("--template",), ("--template", "--weights-only")),
        ),
    ),
    "keras-v3": (
        Target("`.keras`", "keras-v3", "out.keras", _KERAS),
        Target("`.weights.h5`", "keras-v3", "out.weights.h5", _KERAS),
        Target("`.weights.json`", "keras-v3", "out.weights.json", _KERAS),
    ),
    "keras-h5": (Target("Keras `.h5`", "keras-h5", "out.h5", _KERAS),),
}


def columns() -> tuple[Target, ...]:
    """Return what to write, of all formats of this repository that are written."""
    found: list[Target] = []
    for each in all_formats():
        if each.plan and ".converters.formats." in each.open.__module__:
            found += SPECIAL.get(each.name) or (_plain(each),)
    return tuple(found)


def _plain(format: Format) -> Target:
    return Target(format.title, format.name, f"out{format.extensions[0]}")


class Fate(NamedTuple):
    """What becomes of a sample in a target.

    Attributes:
        kind: lossless, lossy or refused.
        flags: those it takes.
        remarks: what is lost, what is called otherwise, or why it is refused.
    """

    kind: str
    flags: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def fate(sample: Sample, target: Target, folder: Path) -> Fate:
    """Convert a sample, read the copy and compare.

    Args:
        sample: what to convert.
        target: what to write.
        folder: an empty folder.

    Raises:
        RuntimeError: the copy is not what the account says, or a refusal left something behind.
    """
    reason = ""
    for flags in target.tries:
        if not _can_have(sample, flags):
            continue
        try:
            return _converted(sample, target, flags, folder)
        except (TargetError, UsageError) as error:
            if list(folder.iterdir()):
                raise RuntimeError(f"{sample.place}: refused, and left something behind") from error
            reason = _placeless(error.what, folder)
    return Fate(REFUSED, remarks=(reason,))


def _can_have(sample: Sample, flags: Iterable[str]) -> bool:
    has = {"--config": sample.config, "--template": sample.template, MODERN: sample.keras_1}
    return all(has.get(flag, True) for flag in flags)


def _converted(sample: Sample, target: Target, flags: tuple[str, ...], folder: Path) -> Fate:
    options = _options(sample, target, flags)
    path = folder / target.name
    lossy = False
    try:
        report = convert(sample.path, path, replace(options, strict=True))
    except LossError:
        lossy = True
        report = convert(sample.path, path, options)
    if report.lossy != lossy:
        raise RuntimeError(f"{sample.place} to {target.name}: --strict does not tell losses")
    remarks = (*_losses(report), *_compare(sample, path, report, options.read))
    return Fate(LOSSY if lossy else LOSSLESS, flags, remarks)


def _options(sample: Sample, target: Target, flags: Iterable[str]) -> ConvertOptions:
    write = WriteOptions(
        object_based="--object-based" in flags,
        template=sample.template if "--template" in flags else None,
        config=sample.config if "--config" in flags else None,
    )
    return ConvertOptions(
        target_format=target.format,
        read=ReadOptions(keras1="modern" if MODERN in flags else "keep"),
        write=write,
        weights_only="--weights-only" in flags,
        verify=True,
        jobs=1,
    )


def _losses(report: Report) -> list[str]:
    counts = Counter((note.kind, note.text) for note in report.notes if note.kind.lossy)
    title = format_named(report.plan.format).title  # the same loss in every target
    return [
        text.replace(title, "the target")
        if kind is Kind.METADATA_LOST
        else f"{count} {kind.value}: {text}"
        for (kind, text), count in counts.items()
    ]


def _placeless(text: str, folder: Path) -> str:
    """Return a message without the places of this machine."""
    for place in (SAMPLES, folder):
        text = text.replace(f"{place}{os.sep}", "")
    return text


def _compare(sample: Sample, path: Path, report: Report, read: ReadOptions) -> Iterator[str]:
    """Compare the copy with the sample, both opened as a user would; yield what is different."""
    dropped = {note.tensor for note in report.notes if note.kind is Kind.DROPPED}
    with open_tensors(sample.path, read) as source:
        expected = contents(source.select(name for name in report.kept if name not in dropped))
    with open_tensors(path, format=report.plan.format) as copy:
        keys = {copy.origin(name).key: name for name in copy}
        found = contents(copy)
    added = [keys[key] for key in _added(report) if key in keys]
    there, wanted = _counted(found, added), _counted(expected)
    if wanted - there or (there - wanted).keys() - wanted.keys():
        raise RuntimeError(f"{sample.place} to {path.name}: the copy holds something else")
    other = [name for name in expected if found.get(name) != expected[name]]
    if other:
        yield f"{len(other)} other names, such as `{other[0]}`"
    if there != wanted:
        yield f"{(there - wanted).total()} tensors twice, since the object graph has them twice"
    if added:
        yield f"`{'`, `'.join(added)}` added"


def _added(report: Report) -> list[str]:
    """Return the keys of what the writer put in beside the tensors of the source."""
    keys = report.plan.read_back.keys if report.plan.read_back else {}
    return [key for key, name in keys.items() if name is None]


def _counted(found: Mapping[str, object], without: Iterable[str] = ()) -> Counter[str]:
    return Counter(repr(each) for name, each in found.items() if name not in without)


# As a table


def cell(found: Fate, remarks: dict[str, int]) -> str:
    """Return how the table shows a fate: `lossy: --config (1, 2)`; new remarks get a number."""
    text = ": ".join(filter(None, (found.kind, " ".join(f"`{flag}`" for flag in found.flags))))
    numbers = [remarks.setdefault(each, len(remarks) + 1) for each in found.remarks]
    return f"{text} ({', '.join(map(str, numbers))})" if numbers else text


def label(sample: Sample) -> str:
    """Return the first cell of a row: what it is, and which sample."""
    return f"{sample.shown}: `{sample.place}`"
