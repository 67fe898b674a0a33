"""One digest per tensor, equal in every container: BLAKE3 over dtype, shape and bytes.

What is hashed is the line `<dtype> <dim>x<dim>…` ended by a newline, in ASCII (`float32 3x4`; a
scalar has nothing after the blank), then the bytes: C order, little endian. Elements of variable
length are each preceded by their length as 8 bytes little endian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from blake3 import blake3

from .errors import ConvertError, CorruptFileError
from .sources import Extent
from .tensors import Tensor, TensorSpec, check_extent
from .threads import run_all

__all__ = ["digest", "digest_all", "hasher"]

# Small tensors that lie side by side are read at once, up to so many bytes: 300 models of 90
# tensors of 22 kB then take 3,289 reads to be verified instead of 29,601.
SMALL_BYTES, TOGETHER_BYTES = 128 << 10, 1 << 20

_Run = list[tuple[str, Extent]]  # tensors side by side in one source


def hasher(spec: TensorSpec) -> blake3:
    """Return a hash that has taken in dtype and shape and waits for the bytes."""
    return blake3(f"{spec.dtype} {'x'.join(map(str, spec.shape))}\n".encode("ascii"))


def digest(tensor: Tensor, advance: Callable[[int], None] | None = None) -> str:
    """Return the digest of a tensor in lower-case hexadecimal; reads it once, in chunks."""
    state = hasher(tensor.spec)
    for chunk in tensor.chunks():
        state.update(chunk)
        if advance:
            advance(len(chunk))
    return state.hexdigest()


def digest_all(
    tensors: Mapping[str, Tensor],
    names: Iterable[str],
    jobs: int,
    advance: Callable[[int], None] | None = None,
) -> dict[str, str]:
    """Return the digests of the named tensors, computed by `jobs` threads.

    Raises:
        ConvertError: a tensor cannot be read; the error names it.
    """
    digests: dict[str, str] = {}

    def one(name: str) -> None:
        try:
            digests[name] = digest(tensors[name], advance)
        except ConvertError as error:
            raise error.within(f"tensor `{name}`") from error

    def work(run: str | _Run) -> None:
        if isinstance(run, str):
            one(run)
            return
        try:
            digests.update(_digests_together(tensors, run))
        except CorruptFileError:  # it does not say of which tensor
            for name, _ in run:
                one(name)
        else:
            if advance:
                advance(sum(extent.length for _, extent in run))

    run_all(lambda: work, _runs(tensors, names), jobs)
    return digests


def _runs(tensors: Mapping[str, Tensor], names: Iterable[str]) -> Iterator[str | _Run]:
    """Yield what to read at once: a tensor by its name, or small ones side by side."""
    run: _Run = []
    for name in names:
        extent = _small(tensors, name)
        if run and not (extent and _fits(run, extent)):
            yield run
            run = []
        if extent:
            run.append((name, extent))
        else:
            yield name
    if run:
        yield run


def _small(tensors: Mapping[str, Tensor], name: str) -> Extent | None:
    """Return the one range of a small tensor; None for any other, and for what cannot be read."""
    extents = None
    with suppress(ConvertError):
        extents = tensors[name].extents
    if extents is None or len(extents) != 1 or extents[0].length > SMALL_BYTES:
        return None
    return extents[0]


def _fits(run: _Run, extent: Extent) -> bool:
    first, last = run[0][1], run[-1][1]
    return (
        extent.source is last.source
        and extent.offset == last.offset + last.length
        and extent.offset + extent.length - first.offset <= TOGETHER_BYTES
    )


def _digests_together(tensors: Mapping[str, Tensor], run: _Run) -> dict[str, str]:
    start = run[0][1].offset
    end = run[-1][1].offset + run[-1][1].length
    buffer = memoryview(bytearray(end - start))
    run[0][1].source.read_into(start, buffer)
    digests = {}
    for name, extent in run:
        view = buffer[extent.offset - start :][: extent.length]
        if extent.checksum:
            check_extent(extent, extent.checksum.algorithm.update(view))
        state = hasher(tensors[name].spec)
        state.update(view)
        digests[name] = state.hexdigest()
    return digests
