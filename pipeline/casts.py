"""Which tensors get another type: `bf16` for all floats, `embed*=f32` for those that match."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from ..converters.casting import FLOATS, TARGETS, CastTensor, castable
from ..converters.dtypes import DType
from ..converters.errors import UsageError
from ..converters.names import near
from ..converters.notes import Kind, Note
from ..converters.tensors import Role, Tensor, TensorDict
from ..converters.ties import ties
from .recipe.applied import casts_below
from .selection import By, matching

__all__ = ["Casts", "cast_notes", "cast_tensors", "loss_notes", "parse_casts", "type_named"]

KEEP = "keep"
# Numbers that steer the training, and that a model may not get by with in fewer bits: learning
# rates, powers of beta, step counts. They are cast where a pattern matches them.
_BOOKKEEPING = frozenset({Role.OPTIMIZER, Role.COUNTER, Role.TEXT, Role.TABLE})
_SHORT = (("float8_", "f8"), ("float", "f"), ("uint", "u"), ("int", "i"), ("complex", "c"))
_HABITS = {"f8e4m3": DType.FLOAT8_E4M3FN}  # what safetensors and papers call it


@dataclass(frozen=True)
class Casts:
    """What was asked for.

    Attributes:
        default: the type of all float tensors that no pattern matches, None to keep theirs.
        patterns: pattern and type, None to keep what there is; the first that matches counts.
    """

    default: DType | None = None
    patterns: tuple[tuple[str, DType | None], ...] = ()

    def __bool__(self) -> bool:
        return self.default is not None or bool(self.patterns)


def parse_casts(texts: Iterable[str]) -> Casts:
    """Return what texts such as `bf16`, `embed*=f32` and `norm*=keep` ask for.

    Raises:
        UsageError: a type is unknown, or no default; or there are two defaults.
    """
    default: DType | None = None
    patterns: list[tuple[str, DType | None]] = []
    for text in texts:
        pattern, equals, name = text.rpartition("=")
        if equals:
            if not pattern:
                raise UsageError(f"no pattern before `=` in `{text}`")
            patterns.append((pattern, None if name == KEEP else type_named(name)))
            continue
        dtype = type_named(name)
        if default not in (None, dtype):
            raise UsageError(
                f"two types for all tensors: {default} and {dtype}",
                hint="say which tensors get one of them: --dtype 'PATTERN=TYPE'",
            )
        if dtype not in FLOATS:
            raise UsageError(
                f"not all tensors can become {dtype}: floats stay floats",
                hint=f"say which: --dtype 'PATTERN={name}'",
            )
        default = dtype
    return Casts(default, tuple(patterns))


def type_named(text: str) -> DType:
    """Return the type that a name such as `bf16`, `float16` or `F8_E4M3` stands for.

    Raises:
        UsageError: none has this name, or nothing is cast to it.
    """
    names = {name: dtype for dtype in TARGETS for name in (_short(dtype), dtype.label)} | _HABITS
    wanted = text.lower()
    found = names.get(wanted) or names.get(wanted.replace("_", ""))
    if found:
        return found
    if DType.named(wanted):
        raise UsageError(f"nothing is cast to {wanted}", hint=_all_names())
    raise UsageError(f"no type is called `{text}`", hint=near(wanted, names) or _all_names())


def _short(dtype: DType) -> str:
    """Return what a type is called for short: `bf16`, `f8e5m2`, `i64`."""
    label = dtype.label
    for long, short in _SHORT:
        label = label.replace(long, short)
    return label


def _all_names() -> str:
    return f"say TYPE or PATTERN=TYPE; there are {', '.join(map(_short, TARGETS))}"


def cast_tensors(tensors: TensorDict, casts: Casts, by: By = "name") -> TensorDict:
    """Return the dictionary with tensors in the types that were asked for; reads none.

    Args:
        tensors: what is going to be written.
        casts: which types.
        by: whether patterns are over names or over the container's own keys.

    Raises:
        UsageError: a pattern matches nothing, or a tensor that cannot have that type.
    """
    if not casts:
        return tensors
    wanted = {
        name: casts.default for name in tensors if casts.default and _is_number(tensors, name)
    } | _by_pattern(tensors, casts, by)
    # A tensor under two names is cast once, and stays one tensor.
    tied, made = ties(tensors), dict[tuple[str, DType], Tensor]()
    changed = {}
    for name, dtype in wanted.items():
        if dtype is not None and dtype is not tensors[name].spec.dtype:
            first = tied.get(name, name), dtype
            if first not in made:
                made[first] = _cast(name, tensors[name], dtype)
            changed[name] = made[first]
    return replace(tensors, tensors={**tensors.tensors, **changed})


def _is_number(tensors: TensorDict, name: str) -> bool:
    """Tell whether a tensor holds what a model computes with."""
    return tensors[name].spec.dtype in FLOATS and tensors.origin(name).role not in _BOOKKEEPING


def _by_pattern(tensors: TensorDict, casts: Casts, by: By) -> dict[str, DType | None]:
    texts = {name: tensors.origin(name).key if by == "key" else name for name in tensors}
    wanted: dict[str, DType | None] = {}
    for pattern, dtype in casts.patterns:
        found = matching(texts, [pattern])
        for name in tensors:  # in their order, so that a refusal always names the same one
            if name in found:
                wanted.setdefault(name, dtype)
    return wanted


def _cast(name: str, tensor: Tensor, dtype: DType) -> Tensor:
    source = tensor.spec.dtype
    if not castable(source, dtype):
        raise UsageError(
            f"{source} is not cast to {dtype}",
            where=f"tensor `{name}`",
            hint=f"narrow the pattern, or put --dtype {name + '=' + KEEP!r} before it",
        )
    return CastTensor(tensor, dtype)


def cast_notes(tensors: TensorDict) -> Iterator[Note]:
    """Say which tensors are cast; of those that a recipe casts it is said there."""
    for name, tensor in tensors.items():
        if isinstance(tensor, CastTensor) and tensor not in casts_below(tensors, name):
            text = f"{tensor.inner.spec.dtype} to {tensor.spec.dtype}"
            yield Note(Kind.CAST, text, name)


def loss_notes(tensors: TensorDict) -> Iterator[Note]:
    """Say which tensors lost values, as far as they have been read."""
    for name, tensor in tensors.items():
        below = casts_below(tensors, name)
        own = (tensor,) if isinstance(tensor, CastTensor) and tensor not in below else ()
        for cast in (*below, *own):
            if cast.losses and any(cast.losses):
                yield _loss(name, cast, *cast.losses)


def _loss(name: str, tensor: CastTensor, overflow: int, zero: int) -> Note:
    parts = [f"{overflow} overflow"] if overflow else []
    parts += [f"{zero} become zero"] if zero else []
    values = "value" if tensor.spec.size == 1 else "values"
    text = f"of {tensor.spec.size} {values}, {' and '.join(parts)} as {tensor.spec.dtype}"
    return Note(Kind.OUT_OF_RANGE, text, name)
