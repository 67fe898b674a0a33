"""Files that are often taken for ours: what they are, and what to do instead.

Read only when no format claims an input, so it costs a conversion nothing.
"""

from __future__ import annotations

from .containers.sstable import MAGIC
from .registry import Location

__all__ = ["name_foreign"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
# First bytes, what it is, what to do.
_HEADS = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it stands for",
        "fetch the file itself: git lfs pull",
    ),
    (b"GGUF", "a GGUF file, which is not read here", "convert from what it was made of"),
    (
        b"\x93NUMPY",
        "a single array (.npy), not a set of named ones",
        "put it into an archive with numpy.savez",
    ),
    (b"\x1f\x8b", "a gzip-compressed file", "unpack it first: gunzip, or tar -xzf"),
    (b"\x08", "a protobuf message such as ONNX or SavedModel, which is not read here", None),
)
_PYTORCH = "a PyTorch pickle: reading it could run code, so it is not read here"
_PYTORCH_HINT = "in PyTorch: safetensors.torch.save_file(torch.load(path, weights_only=True), …)"


def name_foreign(location: Location) -> tuple[str, str | None] | None:
    """Return what a file is and what to do with it, or None if nobody knows."""
    if location.path.is_dir():
        return _folder(location)
    head = location.head
    if not head:
        return ("an empty file", None) if location.is_file else ("not a regular file", None)
    if head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        return _PYTORCH, _PYTORCH_HINT
    if head.startswith(b"PK"):
        return _zip(head)
    if head.startswith(_HDF5):
        return "an HDF5 file that holds no plain datasets", None
    for start, what, hint in _HEADS:
        if head.startswith(start):
            return what, hint
    return _table(location)


def _folder(location: Location) -> tuple[str, str | None] | None:
    if any((location.path / f"saved_model.{end}").exists() for end in ("pb", "pbtxt")):
        weights = location.path / "variables" / "variables"
        found = weights.with_name("variables.index").is_file()
        hint = f"its weights are in {weights}" if found else None
        return "a SavedModel, which is not read as such yet", hint
    return None


def _zip(head: bytes) -> tuple[str, str | None]:
    if b"data.pkl" in head or b".pkl" in head:
        return _PYTORCH, _PYTORCH_HINT
    if b"model.weights.h5" in head or b"config.json" in head:
        return "a Keras archive, which is not read yet", None
    return "a zip archive that is no npz", "unpack it and point at the model inside"


def _table(location: Location) -> tuple[str, str | None] | None:
    with location.path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(file.tell() - len(MAGIC), 0))
        tail = file.read()
    if tail == MAGIC:
        return "a TensorFlow V1 checkpoint, which is not read yet", None
    return None
