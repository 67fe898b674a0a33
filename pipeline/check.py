"""Looking for damage, odd values and dangerous parts in a model. Nothing of it is executed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ..converters.digests import hasher
from ..converters.errors import ConvertError, CorruptFileError, UnsafeFileError
from ..converters.findings import Finding, Level
from ..converters.opening import located
from ..converters.registry import ReadOptions, format_named
from ..converters.tensors import CHUNK_BYTES, Tensor, TensorDict
from ..converters.threads import run_all
from .stats import Stats, stats_all, stats_of

if TYPE_CHECKING:
    from blake3 import blake3

__all__ = ["Checked", "check", "failed", "risks"]

# Deflate packs at best 1,032 to 1, and a Const may say a value once for all elements, as
# initialisers do.
MAX_RATIO, SLACK_BYTES = 1100, 64 << 20
_GRAVITY = tuple(Level)  # the gravest first

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Checked:
    """What a check found.

    Attributes:
        findings: the gravest first.
        stats: of every tensor of numbers that could be read, by name.
        digests: of every tensor that could be read, where they were asked for.
    """

    findings: tuple[Finding, ...]
    stats: Mapping[str, Stats] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found that is worse than worth a look."""
        return all(finding.level is Level.NOTE for finding in self.findings)


def failed(error: CorruptFileError, path: str) -> Checked:
    """Return the findings on a model that cannot be opened: why.

    Args:
        error: what opening it raised.
        path: what the user pointed at.
    """
    return Checked((_of_error(error, "integrity/unreadable", path=path),))


def check(
    source: str,
    tensors: TensorDict,
    options: ReadOptions,
    jobs: int,
    advance: Advance | None = None,
    *,
    security: bool = False,
    brief: bool = True,
    digests: bool = False,
) -> Checked:
    """Read all of an opened model, and return what is wrong with it.

    Args:
        source: what the user pointed at.
        tensors: what came of opening it.
        options: how it was opened.
        jobs: number of threads.
        advance: called with the number of bytes just read.
        security: look for what is dangerous to load, too.
        brief: leave out the statistics that no finding needs.
        digests: compute the digest of every tensor on the way.
    """
    from .value_flags import value_flags

    oversized = {finding.tensor: finding for finding in _oversized(tensors)}
    wanted = tensors.select(
        name for name in tensors if name not in tensors.broken and name not in oversized
    )
    values = _Values(wanted, digests=digests)
    found = [*_broken(tensors), *oversized.values(), *values.read(jobs, advance, brief=brief)]
    found += _of_format(source, tensors, options, security=security)
    readable = wanted.select(name for name in wanted if name not in values.unreadable)
    found += value_flags(readable, values.stats, jobs, advance)
    found.sort(key=lambda finding: _GRAVITY.index(finding.level))  # stable: else as found
    return Checked(tuple(dict.fromkeys(found)), values.stats, values.digests)


def risks(source: str, tensors: TensorDict, options: ReadOptions) -> list[Finding]:
    """Return what is dangerous to load in a model; reads graphs and configs, no values.

    Args:
        source: what the user pointed at.
        tensors: what came of opening it.
        options: how it was opened.
    """
    found = [*_oversized(tensors), *_of_format(source, tensors, options, security=True)]
    return [finding for finding in found if finding.rule.startswith("security/")]


# What the index says


def _broken(tensors: TensorDict) -> Iterator[Finding]:
    """Yield what opening has noticed; tensors that lack the same file are one finding."""
    causes: dict[str, list[str]] = {}
    for name, error in tensors.broken.items():
        what = f"{error.path}: {error.what}: {error.expected}: {error.got}"
        causes.setdefault(what, []).append(name)
    for names in causes.values():
        [first, *others] = names
        error = tensors.broken[first]
        rule = "integrity/missing-data"
        if not others:
            yield _of_error(error, rule, first if first in tensors else None)
            continue
        finding = _of_error(error, rule)
        text = f"{finding.text}, and with it {len(names)} tensors, such as `{first}`"
        yield replace(finding, text=text, where=None)


def _oversized(tensors: TensorDict) -> Iterator[Finding]:
    """Yield tensors that claim more than the files can hold: reading them would never end."""
    held = 0
    for source in tensors.sources:
        try:
            held += source.size
        except ConvertError:  # a file that is missing
            continue
    for name, tensor in tensors.items():
        if tensor.nbytes > held * MAX_RATIO + SLACK_BYTES:
            text = f"claims {tensor.nbytes:,} bytes, and all files hold {held:,}: not read"
            yield Finding("security/oversize", Level.ERROR, text, name)


# What the bytes say


class _Values:
    """One pass over all bytes, for checksums, statistics and digests at once."""

    def __init__(self, tensors: TensorDict, *, digests: bool) -> None:
        self._tensors = tensors
        self._states: dict[str, blake3] = {}
        if digests:
            hashed = {name: _Hashed(tensor, name, self._states) for name, tensor in tensors.items()}
            self._tensors = replace(tensors, tensors=hashed)
        self.stats: dict[str, Stats] = {}
        self.unreadable: dict[str, ConvertError] = {}

    @property
    def digests(self) -> dict[str, str]:
        """By name, of what was read to its end."""
        return {
            name: self._states[name].hexdigest()
            for name in self._tensors
            if name in self._states and name not in self.unreadable
        }

    def read(self, jobs: int, advance: Advance | None, *, brief: bool) -> Iterator[Finding]:
        """Read everything; yield what cannot be read."""
        measured = stats_all(self._tensors, jobs, advance, brief=brief, unreadable=self.unreadable)
        self.stats.update(measured)
        texts = [name for name in self._tensors if self._tensors[name].spec.dtype.variable]
        run_all(lambda: partial(self._read_text, advance=advance), texts, jobs)
        for name in [name for name in self._tensors if name in self.unreadable]:
            yield self._again(name, self.unreadable[name])

    def _read_text(self, name: str, advance: Advance | None) -> None:
        try:
            for chunk in self._tensors[name].chunks():
                if advance:
                    advance(len(chunk))
        except ConvertError as error:
            self.unreadable[name] = error.within(f"tensor `{name}`")

    def _again(self, name: str, error: ConvertError) -> Finding:
        """Return the finding on a tensor that could not be read.

        A checksum of many tensors together, as an archive has one for all weights, fails whoever
        is read last, once. So a tensor that can be read now is not the one that is damaged.
        """
        where = (error.where or "").removeprefix(f"tensor `{name}`").removeprefix(": ") or None
        finding = replace(_of_error(error, "integrity/damaged", name), where=where)
        tensor = self._tensors[name]
        try:
            if tensor.spec.dtype.variable:
                tensor.elements()
            else:
                self.stats[name] = stats_of(tensor)
        except ConvertError:
            return finding
        del self.unreadable[name]
        return replace(finding, tensor=None)


class _Hashed(Tensor):
    """A tensor that is hashed as it is read."""

    __slots__ = ("_inner", "_name", "_states")

    def __init__(self, inner: Tensor, name: str, states: dict[str, blake3]) -> None:
        self.spec = inner.spec
        self._inner = inner
        self._name = name
        self._states = states

    @property
    def nbytes(self) -> int:
        return self._inner.nbytes

    def elements(self) -> list[bytes]:
        return self._inner.elements()

    def chunks(self, max_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
        state = self._states[self._name] = hasher(self.spec)
        for chunk in self._inner.chunks(max_bytes):
            state.update(chunk)
            yield chunk


# What the format knows


def _of_format(
    source: str, tensors: TensorDict, options: ReadOptions, *, security: bool
) -> Iterator[Finding]:
    chosen = format_named(tensors.format)
    location, seen = located(source, tensors)
    for look in (chosen.audit, chosen.scan if security else None):
        if look is None:
            continue
        try:
            for finding in look(location, options, tensors):
                path = finding.path and seen(finding.path)
                yield replace(finding, path=path, text=seen(finding.text))
        except CorruptFileError as error:
            finding = _of_error(error, "integrity/damaged", path=source)
            yield replace(finding, path=finding.path and seen(finding.path))


def _of_error(
    error: ConvertError, rule: str, tensor: str | None = None, path: str | None = None
) -> Finding:
    if isinstance(error, UnsafeFileError):
        rule = "security/unsafe-file"
    text = error.what
    if error.expected is not None:
        text += f", expected {error.expected}"
    if error.got is not None:
        text += f", got {error.got}"
    where = error.where
    if tensor is not None and where is not None:
        where = where.removeprefix(f"tensor `{tensor}`").removeprefix(": ") or None
    return Finding(rule, Level.ERROR, text, tensor, error.path or path, where)
