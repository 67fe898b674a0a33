"""Variables of an optimizer in a legacy Keras `.h5`: whose slots they are.

    Adam/m/conv/kernel              tf_keras; m/conv/kernel within a LossScaleOptimizer
    adam/conv_kernel_momentum       Keras 3; conv_kernel_momentum in 3.0
    training/Adam/conv/kernel/m     OptimizerV2 of TensorFlow 2.0 to 2.10
    m_0, Variable_3, param_7        Keras 1 to 2.3

They are told by the names that the config's optimizer would give them, if all agree; else each by
the variable's name in its own; else, where names are mere numbers, by their place, if every shape
agrees (keras/optimizers.py, v1.2.2 and v2.3.1).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from ..tensors import Evidence, Role, TensorSpec
from .keras_config import Layer
from .keras_optimizers import OptimizerVariable, optimizer_variables
from .name_patterns import leaf_of

__all__ = ["Found", "Slot", "Trained", "optimizer_slots"]

_COUNTER = re.compile(r"iter(ations?)?(_\d+)?")
# What optimizers call slots whose names hold the name of their variable (keras 3.15, tf_keras 2.21
# and its legacy optimizers); TensorFlow 1 numbered those that were made twice.
_SLOT = re.compile(
    r"(m|v|u|r|c|vhat|momentum|velocity|velocity_hat|norm|accumulator|linear|rms|mg|accum_grad"
    r"|accum_var|accumulated_grad|accumulated_delta_var|average_gradient|gradient_accumulator"
    r"|average)(_\d+)?"
)
_FLAT = re.compile(rf"(.+)_{_SLOT.pattern}", re.DOTALL)
_MAX_SCOPES = 8  # before the name of a slot or of its variable; three were seen
# What Keras 1 to 2.3 called slots: no word of whose they are.
_ANONYMOUS = re.compile(
    r"(param|[Vv]ariable|m|v|u|vhat|moment|accumulator|delta_accumulator)(_\d+){0,2}"
)
# Slots in groups, each of every trained variable in turn (keras/optimizers.py, v1.2.2 and v2.3.1).
_OLD_SLOTS: Mapping[str, tuple[str, ...]] = {
    "sgd": ("momentum",),
    "rmsprop": ("accumulator",),
    "adagrad": ("accumulator",),
    "adadelta": ("accumulator", "delta_accumulator"),
    "adam": ("m", "v"),
    "adamax": ("m", "u"),
    "nadam": ("m", "v"),
}


class Slot(NamedTuple):
    """A variable of the optimizer: path of the dataset, what the list calls it, and its spec."""

    key: str
    text: str
    spec: TensorSpec


class Trained(NamedTuple):
    """A variable that may be trained: path of the dataset, what the list calls it, and its spec."""

    key: str
    name: str
    spec: TensorSpec


class Found(NamedTuple):
    """What is known of a variable; `owner` is a key."""

    name: str
    role: Role
    trainable: bool | None = None
    evidence: Evidence = Evidence.NAME
    owner: str | None = None
    slot: str | None = None


def optimizer_slots(
    slots: Sequence[Slot], trained: Sequence[Trained], optimizer: Layer | None
) -> dict[str, Found]:
    """Return what the variables of an optimizer are, by key.

    Args:
        slots: in the order of their list.
        trained: variables of the model, in the order of theirs.
        optimizer: from the config.
    """
    found = {slot.key: _unowned(slot.text) for slot in slots}
    if optimizer is not None:
        known = _by_expected_names(slots, trained, optimizer) or _by_own_names(slots, trained)
        found |= known or _by_place(slots, trained, optimizer)
    return found


def _unowned(text: str) -> Found:
    is_counter = _COUNTER.fullmatch(leaf_of(text)) is not None
    return Found(text, Role.COUNTER if is_counter else Role.OPTIMIZER, trainable=False)


# By what they are called


def _by_expected_names(
    slots: Sequence[Slot], trained: Sequence[Trained], optimizer: Layer
) -> dict[str, Found]:
    owners = _owners(trained)
    pairs = [(each.name, each.spec) for each in trained]
    known = optimizer_variables(optimizer, pairs, [slot.spec for slot in slots])
    if known is None:
        return {}
    both = list(zip(slots, known, strict=True))
    if not all(_agrees(slot.text, each) for slot, each in both):
        return {}
    return {
        slot.key: Found(
            slot.text, each.role, False, Evidence.CONFIG, owners.get(each.owner or ""), each.slot
        )
        for slot, each in both
    }


def _agrees(text: str, known: OptimizerVariable) -> bool:
    """Whether a variable may be called so; Keras 3 calls what is nobody's slot as it likes.

    In a file of Keras 3.0 a variable's own name lacks what its slot's has: the model before the
    layer, the cell after it.
    """
    if known.owner is None or text == known.name:
        return True
    layer, _, rest = known.owner.partition("/")
    return f"_{layer}_" in f"_{text}" and text.endswith(f"_{leaf_of(rest)}_{known.slot}")


def _by_own_names(slots: Sequence[Slot], trained: Sequence[Trained]) -> dict[str, Found]:
    owners = _owners(trained)
    flat = Counter(name.replace("/", "_") for name in owners)
    by_flat = {each: name for name in owners if flat[each := name.replace("/", "_")] == 1}
    shapes = {each.name: each.spec.shape for each in trained}
    found = {}
    for slot in slots:
        answers = {
            (owner, name)
            for owner, name in _readings(slot.text, owners, by_flat)
            if slot.spec.shape == _shape(name, shapes[owner])
        }
        if len(answers) == 1:
            ((owner, name),) = answers
            role = Role.AVERAGE if name == "average" else Role.SLOT
            found[slot.key] = Found(slot.text, role, False, Evidence.NAME, owners[owner], name)
    return found


def _readings(
    text: str, owners: Mapping[str, str], by_flat: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield whose slot this may be, and what it is called there."""
    parts = text.split("/")
    for at, part in enumerate(parts[:_MAX_SCOPES]):
        match = _SLOT.fullmatch(part)
        owner = "/".join(parts[at + 1 :])
        if match and owner in owners:
            yield owner, match[1]
    match = _FLAT.fullmatch(parts[-1])
    if match and match[1] in by_flat:
        yield by_flat[match[1]], match[2]
    match = _SLOT.fullmatch(parts[-1])
    for at in range(min(len(parts) - 1, _MAX_SCOPES) if match else 0):
        owner = "/".join(parts[at:-1])
        if match and owner in owners:
            yield owner, match[1]
            return


def _shape(slot: str, owner: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a slot; Adafactor keeps rows and columns of the last two dimensions."""
    if slot in ("r", "c") and len(owner) > 1:
        return owner[:-1] if slot == "r" else owner[:-2] + owner[-1:]
    return owner


def _owners(trained: Sequence[Trained]) -> dict[str, str]:
    """Return the key of each variable by what its list calls it, where that is one."""
    counts = Counter(each.name for each in trained)
    return {each.name: each.key for each in trained if counts[each.name] == 1}


# By their place


def _by_place(
    slots: Sequence[Slot], trained: Sequence[Trained], optimizer: Layer
) -> dict[str, Found]:
    """Tell slots that bear numbers for names, if every shape is that of the variable."""
    names = _OLD_SLOTS.get(optimizer.kind.lower(), ())
    count = len(names) * len(trained)
    counters, rest = _split(slots, count)
    if not count or len(rest) < count:
        return {}
    if not all(_ANONYMOUS.fullmatch(leaf_of(slot.text)) for slot in rest):
        return {}
    # Adam has a third group, of single zeros unless it is asked for.
    if len(rest) == count + len(trained) and optimizer.config.get("amsgrad"):
        names = (*names, "vhat")
    elif len(rest) > count and (len(rest) != count + len(trained) or names != ("m", "v")):
        return {}
    pairs = [
        (slot, name, owner)
        for slot, (name, owner) in zip(rest, product(names, trained), strict=False)
    ]
    if any(slot.spec.shape != owner.spec.shape for slot, _, owner in pairs):
        return {}
    found = {
        slot.key: Found(slot.text, Role.SLOT, False, Evidence.CONFIG, owner.key, name)
        for slot, name, owner in pairs
    }
    return found | {
        slot.key: Found(slot.text, Role.COUNTER, False, Evidence.CONFIG) for slot in counters
    }


def _split(slots: Sequence[Slot], count: int) -> tuple[Sequence[Slot], Sequence[Slot]]:
    """Return the counter, which comes first if there is one, and the rest.

    Keras 1 gave it a number for a name, too.
    """
    named = bool(slots) and _COUNTER.fullmatch(leaf_of(slots[0].text)) is not None
    numbered = len(slots) == count + 1 and slots[0].spec.shape == ()
    return (slots[:1], slots[1:]) if named or numbered else ((), slots)
