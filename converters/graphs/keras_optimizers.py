"""The variables of Keras's optimizers, in the order in which they are stored.

    iteration, learning_rate    Keras 3; learning_rate unless it is a schedule; tf_keras: iteration
    averages                    of every trained variable, with use_ema
    gradient accumulators       with gradient_accumulation_steps
    slots                       by class, for every trained variable in the model's order

Verified against live models of keras 3.15 and tf_keras 2.21. Names are those of the live
variables, made of the readable name of the variable they belong to. One that does not fit the
stored shapes at every place names nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..tensors import Role, TensorSpec
from .keras_config import Layer, inner

__all__ = ["WRAPPED", "OptimizerVariable", "expected_variables", "optimizer_variables"]

WRAPPED = "inner_optimizer"  # of a LossScaleOptimizer: its key in the config, and its group

# Names of a class as tf_keras keeps them where the optimizer was given as a string.
_NAMES = {
    name.lower(): name
    for name in ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "Adadelta", "Adamax", "Nadam",
                 "Ftrl", "Lion", "Adafactor", "Lamb")
}  # fmt: skip


class OptimizerVariable(NamedTuple):
    """What a variable of an optimizer is called and for, and the shape it must have."""

    name: str
    shape: tuple[int, ...]
    role: Role = Role.OPTIMIZER
    owner: str | None = None
    slot: str | None = None


Trained = Sequence[tuple[str, TensorSpec]]


def optimizer_variables(
    optimizer: Layer, trained: Trained, stored: Sequence[TensorSpec]
) -> list[OptimizerVariable] | None:
    """Return the variables of an optimizer, or None where they are not certain.

    Args:
        optimizer: from the config.
        trained: name and spec of every variable that is trained, in the model's order.
        stored: the optimizer's variables in the file, by number.
    """
    optimizer = _normal(optimizer)
    if not optimizer.library:
        return None
    found = list(_variables(optimizer, trained))
    if [each.shape for each in found] != [spec.shape for spec in stored]:
        return None
    return found


def expected_variables(optimizer: Layer, trained: Trained) -> list[OptimizerVariable]:
    """Return the variables that an optimizer has; none where its class is not known.

    Args:
        optimizer: from the config.
        trained: name and spec of every variable that is trained, in the model's order.
    """
    optimizer = _normal(optimizer)
    if not optimizer.library or optimizer.kind not in (*_NAMES.values(), "LossScaleOptimizer"):
        return []
    return list(_variables(optimizer, trained))


def _normal(optimizer: Layer) -> Layer:
    kind = _NAMES.get(optimizer.kind.lower(), optimizer.kind)
    return optimizer._replace(kind=kind, name=optimizer.name or kind)


def _variables(optimizer: Layer, trained: Trained) -> Iterator[OptimizerVariable]:
    config = optimizer.config
    yield from _counters(optimizer)
    if optimizer.kind == "LossScaleOptimizer":
        yield OptimizerVariable(f"{optimizer.name}/step_counter", (), Role.COUNTER)
        yield OptimizerVariable(f"{optimizer.name}/dynamic_scale", ())
        wrapped = inner(optimizer, WRAPPED)
        if wrapped is not None:
            wrapped = _normal(wrapped)
            name = f"{optimizer.name}/{wrapped.name}"
            yield from _variables(wrapped._replace(name=name), trained)
        return
    if config.get("use_ema"):
        yield from _slots(optimizer, ("average",), trained)
    if config.get("gradient_accumulation_steps") and optimizer.keras >= 3:
        yield from _slots(optimizer, ("gradient_accumulator",), trained)
    if optimizer.kind == "Adafactor":
        yield from _adafactor(optimizer, trained)
        return
    for names in _groups(optimizer):
        yield from _slots(optimizer, names, trained)
    if optimizer.kind == "Nadam" and optimizer.keras >= 3:
        yield OptimizerVariable(f"{optimizer.name}/u_product", ())


def _counters(optimizer: Layer) -> Iterator[OptimizerVariable]:
    if optimizer.keras < 3:
        yield OptimizerVariable("iteration", (), Role.COUNTER)
        return
    yield OptimizerVariable(f"{optimizer.name}/iteration", (), Role.COUNTER)
    # A schedule computes it from the iteration.
    if not isinstance(optimizer.config.get("learning_rate"), dict):
        yield OptimizerVariable(f"{optimizer.name}/learning_rate", ())


def _groups(optimizer: Layer) -> Iterable[tuple[str, ...]]:
    """Return the slots by group; those of one group lie side by side for each variable."""
    kind, config, new = optimizer.kind, optimizer.config, optimizer.keras >= 3
    first, second = ("momentum", "velocity") if new else ("m", "v")
    if kind in ("Adam", "AdamW"):
        hat = [("velocity_hat" if new else "vhat",)] if config.get("amsgrad") else []
        return [(first, second), *hat]
    if kind == "SGD":
        # tf_keras makes them without any momentum, too.
        return [(first,)] if config.get("momentum") or not new else []
    if kind == "RMSprop":
        more = [("momentum",)] if config.get("momentum") else []
        return [("velocity",), *more, *([("average_gradient",)] if config.get("centered") else [])]
    others: dict[str, tuple[str, ...]] = {
        "Nadam": (first, second),
        "Lamb": (first, second),
        "Lion": (first,),
        "Adagrad": ("accumulator",),
        "Adadelta": ("accumulated_grad", "accumulated_delta_var"),
        "Adamax": ("momentum", "norm") if new else ("m", "u"),
        "Ftrl": ("accumulator", "linear"),
    }
    return [others[kind]] if kind in others else []


def _slots(optimizer: Layer, names: Sequence[str], trained: Trained) -> Iterator[OptimizerVariable]:
    for owner, spec in trained:
        for name in names:
            role = Role.AVERAGE if name == "average" else Role.SLOT
            yield _slot(optimizer, owner, name, spec.shape, role)


def _adafactor(optimizer: Layer, trained: Trained) -> Iterator[OptimizerVariable]:
    """Rows and columns of the last two dimensions; scalars that stand in for them in Keras 3."""
    for owner, spec in trained:
        row, column, scalar = spec.shape[:-1], spec.shape[:-2] + spec.shape[-1:], ()
        if len(spec.shape) < 2:
            row = column = scalar
        if len(spec.shape) >= 2 or optimizer.keras >= 3:
            yield _slot(optimizer, owner, "r", row)
            yield _slot(optimizer, owner, "c", column)
        full = "velocity" if optimizer.keras >= 3 else "v"
        yield _slot(optimizer, owner, full, spec.shape)


def _slot(
    optimizer: Layer, owner: str, slot: str, shape: tuple[int, ...], role: Role = Role.SLOT
) -> OptimizerVariable:
    if optimizer.keras >= 3:
        name = f"{optimizer.name}/{owner.replace('/', '_')}_{slot}"
    else:
        name = f"{optimizer.name}/{slot}/{owner}"
    return OptimizerVariable(name, shape, role, owner, slot)
