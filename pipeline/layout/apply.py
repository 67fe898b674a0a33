"""A model's weights as another framework has them; what is not known for sure stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple

from ...converters.casting import FLOATS
from ...converters.errors import UsageError
from ...converters.notes import Kind, Note
from ...converters.tensors import Origin, Role, Tensor, TensorDict
from ...converters.uses import Uses
from ..recipe.applied import Applied, Change, change_notes
from .jax_names import to_jax
from .layers import Convention, Layer, Made, Undecided, layers_of
from .mlx_names import to_mlx
from .names import uses_of_names
from .torch_names import to_torch

__all__ = ["TARGETS", "Target", "apply_layout", "known_uses"]

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
# What is no part of a model has no place in another framework's one.
_BESIDE = frozenset({Role.SLOT, Role.OPTIMIZER, Role.COUNTER, Role.TEXT, Role.TABLE, Role.AVERAGE})


def known_uses(tensors: TensorDict) -> Uses:
    """Return what graph or config say of tensors, and names where there is neither."""
    own = tensors.uses() if tensors.uses else Uses()
    model = [name for name in tensors if tensors.origin(name).role not in _BESIDE]
    open_names = [name for name in model if name not in own.known]
    if tensors.uses and len(open_names) < len(model):
        # A graph that tells of some weights is no reason to guess the others.
        reasons = {name: own.undecided.get(name, "nothing reads it") for name in open_names}
        return Uses(own.known, reasons)
    return uses_of_names({name: tensors[name].spec.shape for name in open_names})


def apply_layout(tensors: TensorDict, target: Target) -> Applied:
    """Return tensors with the names and axes of another framework; nothing is read.

    What is not decidable keeps its name and its axes, with a note that says why. So does what is
    no part of the model, such as optimizer slots.

    Raises:
        UsageError: two tensors would get one name.
    """
    state = _State(tensors, TARGETS[target], f"--layout {target}")
    return state.run(known_uses(tensors))


@dataclass
class _State:
    source: TensorDict
    framework: _Framework
    rule: str
    made: dict[str, list[tuple[str, Made]]] = field(default_factory=dict)  # by first source
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
        sources = tuple(layer.names[part] for part in made.parts)
        before = tuple(self.source[each].spec for each in sources)
        use = layer.uses[made.parts[0]] if made.parts else next(iter(layer.uses.values()))
        origin = Origin(name, Role.STATE, trainable=False)
        if sources:
            origin = self.source.origin(sources[0])._replace(evidence=use.evidence)
        words = f"{layer.kind.value} by {use.evidence.value} ({use.why})"
        row = Change(sources, name, before, made.tensor.spec, (self.rule,), (words,))
        self._add(name, made.tensor, origin, row)

    def _keep(self, name: str) -> None:
        spec = self.source[name].spec
        row = Change((name,), name, (spec,), spec)
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
        kept = {row.target for row in self.rows if row.sources == (row.target,)}
        given |= {
            "tensors": self.tensors,
            "origins": self.origins,
            "notes": (*self.source.notes, *self._notes()),
            "aliases": {alias: name for alias, name in self.source.aliases.items() if name in kept},
            "broken": {},
            "uses": None,
        }
        return Applied(**given, rows=tuple(self.rows))

    def _notes(self) -> Iterator[Note]:
        yield from change_notes(tuple(self.rows))
        for name, why in self.undecided.items():
            yield Note(Kind.UNDECIDED, why, name)
        added = [row for row in self.rows if not row.sources]
        if added:
            shown = ", ".join(f"`{row.target}`" for row in added[:3])
            more = f" and {len(added) - 3} more" if len(added) > 3 else ""
            text = f"{len(added)} tensors that TensorFlow does not have were added: {shown}{more}"
            yield Note(Kind.TARGET, text)


def _listed(row: Change) -> str:
    return " and ".join(f"`{name}`" for name in row.sources) or "one that was added"
