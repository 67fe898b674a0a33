"""What a recipe is, once it is read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ...converters.errors import printable
from ..selection import By
from .patterns import Pattern
from .templates import Template

__all__ = ["Parameter", "Place", "Recipe", "Rule", "Stage", "Step", "Unmatched", "Where"]

Unmatched = Literal["keep", "note", "drop", "error"]
Where = tuple[Template, ...]  # what a capture may be: texts, whole numbers, or ranges such as 0..11


class Place(NamedTuple):
    """Where in a recipe something stands.

    Attributes:
        file: path of the file, or what else to call it.
        line: counted from 1.
        rule: number of the rule in its file; 0 for what is in none.
        given: what messages call it instead, for what was copied from another file.
    """

    file: str
    line: int = 1
    rule: int = 0
    given: str = ""

    @property
    def path(self) -> str:
        """What errors begin with: `recipes/bert.toml:12`."""
        return self.given or f"{self.file}:{self.line}"

    @property
    def label(self) -> str:
        """What reports call it, the folder aside: `bert.toml:12`."""
        return self.given or printable(f"{self.file.rpartition('/')[2]}:{self.line}")


@dataclass(frozen=True)
class Step:
    """One thing that is done to a tensor.

    Attributes:
        name: which.
        value: how; of which type, `steps.py` says.
    """

    name: str
    value: Any


@dataclass(frozen=True)
class Rule:
    """What becomes of the tensors that match.

    Attributes:
        place: where it stands.
        table: the rule as it was written.
        match: patterns; one has to match, or each one tensor of a group.
        where: by capture, what it may be.
        words: by capture, what its texts become in templates; others do not match.
        by: whether patterns are over names or keys.
        roles: what the tensor has to be for, if there are any.
        dtypes: what type it has to have.
        layers: class of the Keras layer it has to belong to.
        ranks: how many axes it has to have.
        rename: what it is called then.
        steps: what is done to it, in this order.
        tie: further names.
        untie: whether what matches gets bytes of its own, though they are those of another tensor.
        drop: whether it is left out.
        required: whether it is an error if nothing matches; where False was said, not even a note.
    """

    place: Place = field(compare=False)
    table: Mapping[str, Any]
    match: tuple[Pattern, ...]
    where: Mapping[str, Where] = field(default_factory=dict)
    words: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    by: By = "name"
    roles: frozenset[str] = frozenset()
    dtypes: frozenset[str] = frozenset()
    layers: frozenset[str] = frozenset()
    ranks: frozenset[int] = frozenset()
    rename: Template | None = None
    steps: tuple[Step, ...] = ()
    tie: tuple[Template, ...] = ()
    untie: bool = False
    drop: bool = False
    required: bool | None = None

    @property
    def joins(self) -> bool:
        """Whether it makes one tensor of several."""
        return bool(self.steps) and self.steps[0].name in ("concat", "stack")

    @property
    def splits(self) -> bool:
        """Whether it makes several tensors of one."""
        return bool(self.steps) and self.steps[-1].name == "split"


@dataclass(frozen=True)
class Stage:
    """Rules of which the first that matches counts.

    Attributes:
        name: what it is called; empty where there is only one.
        rules: in their order.
        unmatched: what becomes of tensors that none of them matches.
    """

    name: str
    rules: tuple[Rule, ...]
    unmatched: Unmatched = "keep"


@dataclass(frozen=True)
class Parameter:
    """A value that texts of a recipe may name.

    Attributes:
        place: where it stands.
        kind: `value`, or how it is found in the input: `count` or `dim`.
        value: a number or true or false; a text may hold placeholders.
        text: the text, where `value` is one.
        pattern: names that are counted by their one capture.
        axis: of the tensor called `text`, which length is taken.
    """

    place: Place = field(compare=False)
    kind: Literal["value", "count", "dim"]
    value: Any
    text: Template | None = None
    pattern: Pattern | None = None
    axis: int = 0


@dataclass(frozen=True)
class Recipe:
    """How names and tensors change.

    Attributes:
        name: what messages call it.
        about: one line on what it is for.
        stages: run one after the other, each on what the one before has made.
        unmatched: what becomes of tensors that no rule of any stage matches.
        parameters: by name.
        metadata: texts to set.
        files: by name of a file beside a folder target, the values in it.
    """

    name: str = field(compare=False)
    about: str = ""
    stages: tuple[Stage, ...] = ()
    unmatched: Unmatched = "keep"
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
