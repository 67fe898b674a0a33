"""Prove that what was written is what was read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from blake3 import blake3

from ..converters.casting import CastTensor
from ..converters.digests import digest_all
from ..converters.errors import CorruptFileError, NotRecognisedError, VerificationError
from ..converters.names import encode
from ..converters.opening import open_tensors
from ..converters.output import Plan, ReadBack
from ..converters.registry import ReadOptions
from ..converters.tensors import Tensor, TensorDict, TensorSpec

__all__ = ["FAULT_HINT", "digests_as_read", "sample_of", "source_digests", "verify_copy"]

# Small tensors are many, and where offsets are wrong they show it first.
SMALL_BYTES, SMALL_TOTAL_BYTES = 64 << 10, 16 << 20
LARGE_SHARE = 20  # one byte of so many

FAULT_HINT = "the disk or memory may be faulty; if not, this is a bug in Tensorferry"


def source_digests(
    streamed: Mapping[str, str], plan: Plan, tensors: TensorDict, jobs: int, *, again: bool
) -> dict[str, str]:
    """Return the digest of every tensor that was to be written.

    Those whose own bytes went through the copy engine are known; of those that were encoded on
    the way the source is read once more.

    Args:
        streamed: digests of what went through the engine, by name.
        plan: what was written.
        tensors: the tensors.
        jobs: number of threads.
        again: cast once more what was cast, so that a fault on the way shows.
    """
    known = {
        name
        for file in plan.files
        for name, tensor, _ in file.placements
        if tensors.tensors.get(name) is tensor and not (again and isinstance(tensor, CastTensor))
    }
    digests = {name: value for name, value in streamed.items() if name in known}
    digests |= digest_all(tensors, (name for name in tensors if name not in digests), jobs)
    return {name: digests[name] for name in tensors}


def sample_of(tensors: TensorDict) -> list[str]:
    """Return the names of some tensors, always the same ones of the same names and sizes.

    Small tensors up to 16 MiB, and others until they are a twentieth of all bytes; in an order
    that a hash of the names gives.
    """
    drawn = sorted(tensors, key=lambda name: blake3(encode(name)).digest())
    small = [name for name in drawn if tensors[name].nbytes <= SMALL_BYTES]
    large = [name for name in drawn if tensors[name].nbytes > SMALL_BYTES]
    total = sum(tensor.nbytes for tensor in tensors.values())
    chosen = {
        *_until(small, tensors, SMALL_TOTAL_BYTES),
        *_until(large, tensors, total // LARGE_SHARE),
    }
    return [name for name in tensors if name in chosen]


def _until(names: list[str], tensors: TensorDict, limit: int) -> Iterator[str]:
    """Yield names until their tensors have so many bytes together."""
    total = 0
    for name in names:
        if total >= limit:
            return
        yield name
        total += tensors[name].nbytes


def verify_copy(
    path: Path,
    format: str,
    tensors: TensorDict,
    expected: Mapping[str, str],
    jobs: int,
    advance: Callable[[int], None] | None = None,
    read_back: ReadBack | None = None,
    proven: Callable[[str, Tensor], bool] | None = None,
) -> None:
    """Read back what was written and compare it with what should have been.

    Args:
        path: what was written.
        format: name of its format.
        tensors: what should be in it: names, dtypes and shapes of all are compared.
        expected: digests by name, of all tensors or of some.
        jobs: number of threads.
        advance: called with the number of bytes just read.
        read_back: how to read it, where its own names may not be those of the tensors.
        proven: tells from the name of a tensor, and from what it is in the copy, whether its bytes
            were compared before.

    Raises:
        VerificationError: a tensor is missing, is too much or differs.
    """
    try:
        with _opened(path, format, read_back) as copy:
            if read_back:
                sources = _by_key(path, copy, read_back.keys)
            else:
                sources = _sources(path, copy, tensors)
            for name, source in sources.items():
                _check_spec(path, name, copy[name].spec, tensors[source].spec)
            read = {
                name: expected[each]
                for name, each in sources.items()
                if each in expected and not (proven and proven(each, copy[name]))
            }
            got = digest_all(copy, read, jobs, advance)
    except (CorruptFileError, NotRecognisedError) as error:
        # The target's own checksums see a fault first.
        raise VerificationError(
            f"does not read back: {error.what}",
            path=path.name,
            where=error.where,
            expected=error.expected,
            got=error.got,
            hint=FAULT_HINT,
        ) from error
    for name, value in read.items():
        if got[name] != value:
            raise VerificationError(
                "reads back different",
                path=path.name,
                where=f"tensor `{name}`",
                expected=f"digest {value}",
                got=got[name],
                hint=FAULT_HINT,
            )


def digests_as_read(
    path: Path, plan: Plan, tensors: TensorDict, digests: Mapping[str, str], jobs: int
) -> str:
    """Return the text of a digest file of what was written, by the names it opens with.

    Args:
        path: what was written.
        plan: as what.
        tensors: the tensors.
        digests: of all of them, by name.
        jobs: number of threads, for what the writer added.
    """
    from .digest_file import digests_text  # few runs need it

    keys = plan.read_back.keys if plan.read_back else None
    with open_tensors(path, format=plan.format) as copy:
        found = {}
        for name in copy:
            if keys is None:
                source = name if name in tensors else tensors.aliases.get(name)
            else:
                source = keys.get(copy.origin(name).key)
            if source is not None and copy[name].spec == tensors[source].spec:
                found[name] = digests[source]
        found |= digest_all(copy, (name for name in copy if name not in found), jobs)
        return digests_text(copy, found)


def _opened(path: Path, format: str, read_back: ReadBack | None) -> TensorDict:
    if read_back is None:
        return open_tensors(path, format=format)
    options = ReadOptions(names="key", constants=False)
    return open_tensors(path / read_back.inside, options, format=read_back.format)


def _by_key(path: Path, copy: TensorDict, keys: Mapping[str, str | None]) -> dict[str, str]:
    """Return by key in the copy which tensor it is, but for what the writer added.

    Raises:
        VerificationError: a key is missing, or is too much.
    """
    for key in keys.keys() ^ copy.keys():
        what = "was not written" if key in keys else "was written and should not have been"
        raise VerificationError(what, path=path.name, where=f"key `{key}`")
    return {key: name for key, name in keys.items() if name is not None}


def _sources(path: Path, copy: TensorDict, tensors: TensorDict) -> dict[str, str]:
    """Return by name in the copy which tensor it is; a tensor may be there under all its names.

    Raises:
        VerificationError: a tensor is missing, or nothing has the name.
    """
    for name in tensors:
        if name not in copy:
            raise VerificationError("was not written", path=path.name, where=f"tensor `{name}`")
    sources = {name: name if name in tensors else tensors.aliases.get(name) for name in copy}
    for name, source in sources.items():
        if source is None:
            what = "was written and is not in the source"
            raise VerificationError(what, path=path.name, where=f"tensor `{name}`")
    return {name: source for name, source in sources.items() if source is not None}


def _check_spec(path: Path, name: str, got: TensorSpec, expected: TensorSpec) -> None:
    if got != expected:
        raise VerificationError(
            "reads back as something else",
            path=path.name,
            where=f"tensor `{name}`",
            expected=f"{expected.dtype} of shape {expected.shape}",
            got=f"{got.dtype} of shape {got.shape}",
        )
