"""A second reading of a source by the framework that wrote it: an independent witness.

| witness | reads | how |
| --- | --- | --- |
| `tensorflow` | checkpoints, SavedModels | `tf.train.load_checkpoint`: variables by key |
| `tensorflow` | frozen graphs | the Const nodes of the GraphDef |
| `keras` | `.keras`, models in `.h5` | loads the model, saves it again, reads that with h5py |

No code of the model runs: a graph is not executed, and a Keras model is refused if its config has
anything but layers of Keras itself. The framework is imported when it is called, and nowhere else.
TensorFlow is asked for one tensor at a time. Keras holds the whole model, and needs as much space
in the folder for temporary files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from ..converters.casting import CastTensor
from ..converters.digests import digest
from ..converters.errors import CorruptFileError, UsageError
from ..converters.graphs.templates import attached
from ..converters.notes import Kind
from ..converters.registry import ReadOptions
from ..converters.tensors import Tensor, TensorDict
from .witness_keras import keras_model
from .witness_tensorflow import checkpoint, frozen
from .witness_view import Statement, UnseenError, View

__all__ = ["WITNESSES", "Hearing", "hear"]


@dataclass(frozen=True)
class Hearing:
    """What a witness said.

    Attributes:
        witness: who it is, and which version.
        agreed: names of tensors that it reads as we do.
        contradicted: what it says otherwise, by name, or by its own key where we have no tensor.
        unseen: what it could not see, by name, and why.
    """

    witness: str
    agreed: tuple[str, ...]
    contradicted: Mapping[str, str]
    unseen: Mapping[str, str]

    @property
    def agrees(self) -> bool:
        """Whether it contradicts nothing, and saw something."""
        return bool(self.agreed) and not self.contradicted

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "witness": self.witness,
            "agrees": self.agrees,
            "agreed": list(self.agreed),
            "contradicted": dict(self.contradicted),
            "unseen": dict(self.unseen),
        }


def hear(
    against: str,
    opened: TensorDict,
    kept: TensorDict,
    digests: Mapping[str, str],
    read: ReadOptions,
) -> Hearing:
    """Let a witness read the source, and compare it with what we read of it.

    Args:
        against: the witness: a key of `WITNESSES`.
        opened: the source, as we opened it.
        kept: what of it is compared; what is cast is compared as it was before.
        digests: of the tensors of `kept`, by name.
        read: how the source was opened.

    Raises:
        UsageError: the witness does not read such files or this one, or is not installed, or we
            did not read what is stored.
        CorruptFileError: TensorFlow refuses the file.
        UnsafeFileError: it would have to run code of the model.
    """
    call = WITNESSES.get((against, opened.format))
    if call is None:
        raise _no_witness(against, opened)
    if read.dequantize or read.unflip_theano or read.keras1 != "keep":
        raise UsageError(
            "a witness reads what is stored, not what is made of it",
            hint="leave out --dequantize, --keras1 and --unflip-theano",
        )
    unseen = {
        note.tensor: note.text
        for note in opened.notes
        if note.kind in (Kind.UPDATED, Kind.ADDED) and note.tensor is not None
    }
    with call(opened) as view:
        return _compared(view, opened, kept, digests, unseen)


def _compared(
    view: View,
    opened: TensorDict,
    kept: TensorDict,
    digests: Mapping[str, str],
    updates: Mapping[str, str],
) -> Hearing:
    agreed: list[str] = []
    contradicted: dict[str, str] = {}
    unseen: dict[str, str] = {}
    for name in kept:
        key = kept.origin(name).key
        why = updates.get(name) or (None if key in view.keys else "it has no such tensor")
        if why:
            unseen[name] = why
            continue
        try:
            said = view.read(key)
        except UnseenError as error:
            unseen[name] = str(error)
            continue
        except CorruptFileError as error:
            contradicted[name] = error.what
            continue
        other = _difference(said, kept[name], digests[name])
        if other:
            contradicted[name] = other
        else:
            agreed.append(name)
    graph = attached(opened)
    ours = {opened.origin(name).key for name in opened} | set(graph.copies if graph else ())
    for key in sorted(view.keys - ours):
        contradicted[key] = "is there, and we have no such tensor"
    return Hearing(view.title, tuple(agreed), contradicted, unseen)


def _difference(said: Statement, tensor: Tensor, known: str) -> str | None:
    if isinstance(tensor, CastTensor):
        tensor = tensor.inner
        known = digest(tensor)
    if said.spec != tensor.spec:
        theirs, ours = said.spec, tensor.spec
        return f"reads {theirs.dtype} {theirs.shape}, and we read {ours.dtype} {ours.shape}"
    return None if said.digest == known else f"reads other values: {said.digest}, and we {known}"


def _no_witness(against: str, opened: TensorDict) -> UsageError:
    able = [name for name, format in WITNESSES if format == opened.format]
    what = f"{against} reads no {opened.format} as a witness"
    if any(against == name for name, _ in WITNESSES):
        hint = f"--against {able[0]}" if able else "there is no witness for this format"
        return UsageError(what, hint=hint)
    names = sorted({name for name, _ in WITNESSES})
    return UsageError(f"no witness is called `{against}`", hint=f"there are {', '.join(names)}")


# By witness and format, what calls it.
WITNESSES: Mapping[tuple[str, str], Callable[[TensorDict], AbstractContextManager[View]]] = {
    ("tensorflow", "tf-checkpoint"): checkpoint,
    ("tensorflow", "tf-checkpoint-v1"): checkpoint,
    ("tensorflow", "saved-model"): checkpoint,
    ("tensorflow", "frozen-graph"): frozen,
    ("keras", "keras-v3"): keras_model,
    ("keras", "keras-h5"): keras_model,
}
