"""Files that are often taken for ours: what they are, and what to do instead.

Read only when no format claims an input, so it costs a conversion nothing.
"""

from __future__ import annotations

from .containers.graph_kinds import is_foreign_graph
from .registry import Location
from .sources import FileSource

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
    (
        b"\x83\xafp\xd1\r\x88J?",  # Riegeli's signature block
        "a chunked SavedModel (.cpb), or other Riegeli records, which are not read here",
        "its weights are in the folder `variables` beside it",
    ),
    (b"\x08", "a protobuf message such as ONNX, which is not read here", None),
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
    return _graph(location)


def _folder(location: Location) -> tuple[str, str | None] | None:
    if (location.path / "saved_model.cpb").is_file():
        weights = location.path / "variables" / "variables"
        what = "a SavedModel in chunks (saved_model.cpb), which is not read here"
        found = weights.with_name("variables.index").is_file()
        return what, f"its weights are in {weights}; names are the checkpoint's" if found else None
    return None


def _graph(location: Location) -> tuple[str, str | None] | None:
    source = FileSource(location.path)
    try:
        if not is_foreign_graph(source):
            return None
    finally:
        source.close()
    what = "a graph of another kind than TensorFlow's, such as MMdnn's, which holds no weights"
    return what, "point at what it was made of, or at the weights beside it"


def _zip(head: bytes) -> tuple[str, str | None]:
    if b"data.pkl" in head or b".pkl" in head:
        return _PYTORCH, _PYTORCH_HINT
    return "a zip archive that is no npz", "unpack it and point at the model inside"
