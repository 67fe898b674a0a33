"""A model's weights as another framework has them; what is not known for sure stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

from ...converters.casting import FLOATS
from ...converters.errors import UsageError
from ...converters.notes import Kind, Note
from ...converters.tensors import Origin, Role, Tensor, TensorDict
from ...converters.uses import Use, Uses
from ..recipe.applied import Applied, Change, change_notes
from .jax_names import to_jax
from .known import BESIDE, known_uses
from .layers import Convention, Layer, Made, Undecided, layers_of
from .mlx_names import to_mlx
from .torch_names import to_torch

__all__ = ["TARGETS", "Target", "apply_layout"]

Target = Literal["torch", "jax", "mlx"]


class _Framework(NamedTuple):
    """How a framework has weights.

    Attributes:
        convention: what it makes of a layer.
        name: what it calls a tensor, from the path of its layer and its leaf.
    """

    convention: Convention
    name: Callable[[str, str], str]


def _dotted(path: str, leaf: str) -> str:
    return f"{path}/{leaf}".lstrip("/").replace("/", ".")


def _slashed(path: str, leaf: str) -> str:
    """Flax keeps what is trained and what is not in collections, which `leaf` begins with."""
    collection, _, rest = leaf.partition("/")
    return "/".join(filter(None, (collection, path, rest)))


TARGETS: Mapping[Target, _Framework] = {
    "torch": _Framework(to_torch, _dotted),
    "jax": _Framework(to_jax, _slashed),
    "mlx": _Framework(to_mlx, _dotted),
}


def apply_layout(
    tensors: TensorDict, target: Target, names: Mapping[str, str] | None = None
) -> Applied:
    """Return tensors with the names and axes of another framework; nothing is read.

    What is not decidable keeps its name and its axes, with a note that says why. So does what is
    no part of the model, such as optimizer slots.

    Args:
        tensors: the input.
        target: the framework.
        names: what notes and rows call its tensors, where that is something else.

    Raises:
        UsageError: two tensors would get one name.
        ConvertError: the graph or the config is damaged.
    """
    state = _State(tensors, TARGETS[target], f"--layout {target}", names or {})
    return state.run(known_uses(tensors))


@dataclass
class _State:
    source: TensorDict
    framework: _Framework
    rule: str
    names: Mapping[str, str]
    known: dict[str, Use] = field(default_factory=dict)
    undecided: dict[str, str] = field(default_factory=dict)
    rows: list[Change] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)

    def run(self, uses: Uses) -> Applied:
        """Return all tensors, each layer's at the place of its first one."""
        self.undecided |= {
            name: why
            for name, why in uses.undecided.items()
            if name in self.source and self.source[name].spec.dtype in FLOATS
        }
        used: set[str] = set()
        by_first: dict[str, list[tuple[Layer, Made]]] = {}
        for layer in layers_of(self.source, uses):
            made = self._converted(layer)
            done = {layer.names[part] for each in made for part in each.parts}
            if done:
                first = next(name for name in layer.names.values() if name in done)
                by_first[first] = [(layer, each) for each in made]
            used |= done
        for name in self.source:
            for layer, each in by_first.get(name, ()):
                self._put(layer, each)
            if name not in used:
                self._keep(name)
        return self._applied()

    def _converted(self, layer: Layer) -> Sequence[Made]:
        """Return what becomes of a layer; nothing where that is not known."""
        try:
            made = self.framework.convention(layer)
        except (Undecided, UsageError) as reason:
            self.undecided |= dict.fromkeys(layer.names.values(), f"{layer.kind.value}: {reason}")
            return ()
        done = {part for each in made for part in each.parts}
        for part, name in layer.names.items():
            if part not in done:
                self.undecided[name] = f"{layer.kind.value}: it has no place for `{part}`"
        return made

    def _put(self, layer: Layer, made: Made) -> None:
        name = self.framework.name(layer.path, made.leaf)
        sources = [layer.names[part] for part in made.parts]
        before = [self.source[each] for each in sources]
        use = layer.uses[made.parts[0]] if made.parts else next(iter(layer.uses.values()))
        origin = Origin(name, Role.STATE, trainable=False)
        if sources:
            origin = self.source.origin(sources[0])
        self.known |= {layer.names[part]: layer.uses[part] for part in made.parts}
        row = Change(
            tuple(self.names.get(each, each) for each in sources),
            name,
            tuple(each.spec for each in before),
            made.tensor.spec,
            (f"{self.rule}: {layer.kind.value} by {use.evidence.value} ({use.why})",),
            () if before == [made.tensor] or not before else ("laid out",),
        )
        self._add(name, made.tensor, origin, row)

    def _keep(self, name: str) -> None:
        spec = self.source[name].spec
        row = Change((self.names.get(name, name),), name, (spec,), spec)
        self._add(name, self.source[name], self.source.origin(name), row)

    def _add(self, name: str, tensor: Tensor, origin: Origin, row: Change) -> None:
        if name in self.tensors:
            other = next(each for each in self.rows if each.target == name)
            raise UsageError(
                f"two tensors would be called `{name}`: {_listed(other)} and {_listed(row)}",
                where=self.rule, hint="leave one of them out with --exclude",
            )  # fmt: skip
        self.tensors[name] = tensor
        self.origins[name] = origin
        self.rows.append(row)

    def _applied(self) -> Applied:
        given = {each.name: getattr(self.source, each.name) for each in fields(TensorDict)}
        kept = {row.target for row in self.rows if not row.rules}
        given |= {
            "tensors": self.tensors,
            "origins": self.origins,
            "notes": (*self.source.notes, *self._notes()),
            "aliases": {alias: name for alias, name in self.source.aliases.items() if name in kept},
            "broken": {},
            "uses": None,
        }
        known = {self.names.get(name, name): use for name, use in self.known.items()}
        undecided = {self.names.get(name, name): why for name, why in self.undecided.items()}
        return Applied(**given, rows=tuple(self.rows), told=Uses(known, undecided))

    def _notes(self) -> Iterator[Note]:
        yield from change_notes(tuple(self.rows))
        for name in self.source:
            if name in self.undecided:
                yield Note(Kind.UNDECIDED, self.undecided[name], self.names.get(name, name))
        yield from self._beside()
        added = [row for row in self.rows if not row.sources]
        if added:
            shown = ", ".join(f"`{row.target}`" for row in added[:3])
            more = f" and {len(added) - 3} more" if len(added) > 3 else ""
            text = f"added, since TensorFlow has no such tensors: {shown}{more}"
            yield Note(Kind.TARGET, text)

    def _beside(self) -> Iterator[Note]:
        """Say what stays since it is no part of the model."""
        roles = Counter(self.source.origin(name).role for name in self.source)
        found = [f"{roles[each]} {each.value}" for each in Role if each in BESIDE and roles[each]]
        if found:
            text = f"no part of the model, so they stay as they are: {', '.join(found)}"
            yield Note(Kind.TARGET, text)


def _listed(row: Change) -> str:
    return " and ".join(f"`{name}`" for name in row.sources) or "one that was added"
