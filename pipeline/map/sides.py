"""Both sides of a map: their tensors in modules, and modules of one pattern in groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from ...converters.dtypes import DType
from ...converters.tensors import Role, TensorDict
from ..like import Wanted
from .vocabulary import MARK, Parsed, parse_name

__all__ = ["Group", "Item", "Module", "Side", "Signature", "groups_of", "side_of", "side_of_target"]

Signature: TypeAlias = "tuple[tuple[str, tuple[int, ...]], ...]"

# What training alone needs.
BESIDE = frozenset(
    {Role.SLOT, Role.AVERAGE, Role.OPTIMIZER, Role.COUNTER, Role.TEXT, Role.TABLE}
)  # fmt: skip


class Item(NamedTuple):
    """A tensor of a side.

    Attributes:
        name: what the side calls it.
        shape: None where any will do; so is a length.
        dtype: None where any will do.
        parsed: the name, taken apart.
    """

    name: str
    shape: tuple[int | None, ...] | None
    dtype: DType | None
    parsed: Parsed

    @property
    def lengths(self) -> tuple[int, ...] | None:
        """Lengths of all axes but those of length 1, smallest first; None where not known."""
        if self.shape is None or None in self.shape:
            return None
        return tuple(sorted(each for each in self.shape if each is not None and each != 1))


@dataclass(frozen=True, eq=False)
class Module:
    """Tensors that belong together.

    Attributes:
        pattern: its name with `#` for numbers.
        numbers: those.
        words: of its name.
        parts: its tensors by what they are: `weight`, `bias`…
        at: place in the order of the side.
    """

    pattern: str
    numbers: tuple[int, ...]
    words: tuple[str, ...]
    parts: Mapping[str, Item]
    at: int = 0

    @property
    def signature(self) -> Signature:
        """What has to be equal for two modules to be one: parts and lengths of their axes."""
        return tuple(sorted((part, item.lengths or (-1,)) for part, item in self.parts.items()))


class Group(NamedTuple):
    """Modules of one pattern, in the order of their numbers."""

    pattern: str
    modules: tuple[Module, ...]

    @property
    def words(self) -> tuple[str, ...]:
        """Words of the pattern."""
        return self.modules[0].words


@dataclass(frozen=True)
class Side:
    """Tensors of a model that are to be mapped.

    Attributes:
        items: by name, without what only training needs.
        modules: in their order.
        beside: names of what only training needs.
    """

    items: Mapping[str, Item]
    modules: tuple[Module, ...]
    beside: tuple[str, ...] = field(default=())


def side_of(tensors: TensorDict) -> Side:
    """Return the side of a source."""
    items = {
        name: Item(name, tensor.spec.shape, tensor.spec.dtype, parse_name(name))
        for name, tensor in tensors.items()
    }
    beside = tuple(name for name in tensors if tensors.origin(name).role in BESIDE)
    return _side(items, beside)


def side_of_target(wanted: Mapping[str, Wanted]) -> Side:
    """Return the side of a target."""
    items = {
        name: Item(name, each.shape, each.dtype, parse_name(name)) for name, each in wanted.items()
    }
    return _side(items, tuple(name for name, each in wanted.items() if not each.needed))


def _side(items: Mapping[str, Item], beside: Sequence[str]) -> Side:
    gone = frozenset(beside)
    model = {name: item for name, item in items.items() if name not in gone}
    return Side(model, _modules(model.values()), tuple(beside))


def _modules(items: Iterable[Item]) -> tuple[Module, ...]:
    """Return the modules; the second tensor of a part stands alone."""
    drafts: dict[tuple[str, str], dict[str, Item]] = {}
    for item in items:
        parts = drafts.setdefault((item.parsed.module, ""), {})
        part = item.parsed.part or _part_of(item)
        if part in parts:
            parts = drafts.setdefault((item.parsed.module, item.name), {})
        parts[part] = item
    made = [
        Module(first.parsed.pattern, first.parsed.numbers, first.parsed.words, parts, at)
        for at, parts in enumerate(drafts.values())
        for first in (next(iter(parts.values())),)
    ]
    return tuple(_numbered(made))


def _part_of(item: Item) -> str:
    """Return what a tensor is whose name does not say: a matrix is a weight."""
    return "weight" if item.lengths is None or len(item.lengths) > 1 else "vector"


def _numbered(modules: Sequence[Module]) -> Iterable[Module]:
    """Let `dense` be number 0 of `dense_1`, as Keras and TensorFlow count."""
    patterns = {each.pattern for each in modules}
    for module in modules:
        counted = f"{module.pattern}_{MARK}"
        if counted in patterns:
            yield replace(module, pattern=counted, numbers=(*module.numbers, 0))
        else:
            yield module


def groups_of(modules: Iterable[Module], *, by_signature: bool = False) -> list[Group]:
    """Return modules by their patterns, or by pattern and signature."""
    found: dict[object, list[Module]] = {}
    for module in modules:
        key = (module.pattern, module.signature if by_signature else None)
        found.setdefault(key, []).append(module)
    return [
        Group(each[0].pattern, tuple(sorted(each, key=lambda one: (one.numbers, one.at))))
        for each in found.values()
    ]
