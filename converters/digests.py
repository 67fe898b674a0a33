"""One digest per tensor, equal in every container: BLAKE3 over dtype, shape and bytes.

What is hashed is the line `<dtype> <dim>x<dim>…` ended by a newline, in ASCII (`float32 3x4`; a
scalar has nothing after the blank), then the bytes: C order, little endian. Elements of variable
length are each preceded by their length as 8 bytes little endian.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from blake3 import blake3

from .errors import ConvertError
from .tensors import Tensor, TensorSpec
from .threads import run_all

__all__ = ["digest", "digest_all", "hasher"]


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

    def work(name: str) -> None:
        try:
            digests[name] = digest(tensors[name], advance)
        except ConvertError as error:
            raise error.within(f"tensor `{name}`") from error

    run_all(lambda: work, names, jobs)
    return digests
