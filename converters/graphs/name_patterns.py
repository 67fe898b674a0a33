"""Roles read off variable names, for checkpoints whose graph is not at hand.

A pattern is believed only where the names around it agree: an optimizer slot needs its variable
under the name without the suffix, a bare `Adam` is nothing. Families of suffixes: slots of the
TF1 optimizers (tensorflow/python/training/*.py, v1.15 and v2.21), `adam_m` and `adam_v` of BERT
and ALBERT's LAMB, `_slot_vr` and its like of Mesh TensorFlow's Adafactor, and the scopes that
tf.keras puts before the variable (`training/Adam/dense/kernel/m`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from ..tensors import Evidence, Origin, Role

__all__ = ["AVERAGE_SUFFIX", "STATISTICS", "WEIGHT_LEAVES", "describe_by_name", "leaf_of"]

Shapes = Mapping[str, tuple[int, ...]]

MAX_SCOPES = 32  # before the name of a slot's variable
# What layers call their statistics; never trained.
STATISTICS = frozenset({
    "moving_mean", "moving_variance", "moving_stddev",
    "renorm_mean", "renorm_stddev", "renorm_mean_weight", "renorm_stddev_weight",
})  # fmt: skip
# What layers call their weights (tf.layers, contrib.layers, Keras, RNN cells, BERT).
WEIGHT_LEAVES = frozenset({
    "kernel", "bias", "weights", "biases", "gamma", "beta", "embeddings", "embedding",
    "embedding_table", "word_embeddings", "position_embeddings", "token_type_embeddings",
    "depthwise_kernel", "pointwise_kernel", "recurrent_kernel", "depthwise_weights",
    "pointwise_weights", "output_weights", "output_bias",
    "Matrix", "Bias",  # tf.nn.rnn_cell before TensorFlow 1.0: BasicLSTMCell/Linear/Matrix
})  # fmt: skip
AVERAGE_SUFFIX = "/ExponentialMovingAverage"
# Slots of an optimizer in the order in which it makes them, by how many it has.
_FAMILIES: Mapping[str, Mapping[int, tuple[str, ...]]] = {
    "Adam": {2: ("m", "v")},
    "AdamW": {2: ("m", "v")},
    "AdaMax": {2: ("m", "v")},
    "Momentum": {1: ("momentum",)},
    "MomentumW": {1: ("momentum",)},
    "LARSOptimizer": {1: ("momentum",)},
    "RMSProp": {2: ("rms", "momentum"), 3: ("rms", "mg", "momentum")},
    "Adagrad": {1: ("accumulator",)},
    "AdagradDA": {2: ("gradient_accumulator", "gradient_squared_accumulator")},
    "ProximalAdagrad": {1: ("accumulator",)},
    "Adadelta": {2: ("accum", "accum_update")},
    "Ftrl": {2: ("accum", "linear")},
    "Adafactor": {},
}
_SUFFIX = re.compile(rf"({'|'.join(_FAMILIES)})(_\d+)?")
_PLAIN_SUFFIXES = {"adam_m": "m", "adam_v": "v", "lamb_m": "m", "lamb_v": "v"}
_MESH = re.compile(r"(.+)_slot_(vr|vc|v|m)", re.DOTALL)
_SCOPE = r"(?:training(?:_\d+)?/)?(?:Adam|Adamax|Nadam|SGD|RMSprop|Adagrad|Adadelta|Ftrl)(?:_\d+)?"
_SCOPED = re.compile(
    rf"{_SCOPE}/(.+)/(m|v|vhat|momentum|rms|mg|accumulator|accum_grad|accum_var|linear)(?:_\d+)?",
    re.DOTALL,
)
_HYPER = re.compile(
    rf"{_SCOPE}/(?:lr|learning_rate|decay|beta_1|beta_2|rho|momentum)"
    rf"|training(?:_\d+)?/\w+/Variable(?:_\d+)?"
    rf"|(?:.*/)?(?:beta[12]_power(?:_\d+)?|current_loss_scale|good_steps)",
    re.DOTALL,
)
# Every name that `_HYPER` matches ends so. A model has many names and few leaves.
_HYPER_LEAF = re.compile(
    r"lr|learning_rate|decay|beta_1|beta_2|rho|momentum|Variable(_\d+)?"
    r"|beta[12]_power(_\d+)?|current_loss_scale|good_steps"
)
_COUNTERS = frozenset({"global_step", "save_counter"})
_ITERATIONS = re.compile(rf"{_SCOPE}/(?:iter|iterations)")
# Zero-debiased averages keep these below what they average.
_DEBIASING = {"biased": Role.STATE, "local_step": Role.COUNTER}


class _Slot(NamedTuple):
    owner: str
    family: str  # empty where `label` is sure
    label: str


def leaf_of(name: str) -> str:
    """Return what stands behind the last slash."""
    return name[name.rfind("/") + 1 :]


def describe_by_name(names: Iterable[str], shapes: Shapes | None = None) -> dict[str, Origin]:
    """Return what the names alone tell, by name; `Role.UNKNOWN` where they tell nothing.

    Args:
        names: of all variables, so that a slot can be seen beside its variable.
        shapes: of the variables; with them a slot below a scope is known too, if it has the
            shape of the variable whose name it ends in.
    """
    names = dict.fromkeys(names)
    slots = _slots(names, shapes or {})
    labels = _labels(slots)
    owners = {slot.owner for slot in slots.values()}
    origins = {}
    for name in names:
        slot = slots.get(name)
        if slot is None:
            origins[name] = _plain(name, names, name in owners)
        else:
            label = labels[name]
            origins[name] = Origin(name, Role.SLOT, slot.owner, False, Evidence.NAME, label)
    return origins


def _plain(name: str, names: Mapping[str, None], owner: bool) -> Origin:
    """Return the origin of what is no slot; `owner` if it has one, and so is trained."""
    leaf = leaf_of(name)
    if leaf in WEIGHT_LEAVES:  # first, since there may be 100,000 of them; no other rule has these
        return Origin(name, Role.WEIGHT, None, True if owner else None, Evidence.NAME)
    if name.endswith(AVERAGE_SUFFIX) and len(name) > len(AVERAGE_SUFFIX):
        base = name[: -len(AVERAGE_SUFFIX)]
        return Origin(name, Role.AVERAGE, base, False, Evidence.NAME)
    if leaf in STATISTICS:
        return Origin(name, Role.STATE, None, False, Evidence.NAME)
    base = name[: -len(leaf) - 1]
    if leaf in _DEBIASING and base in names:
        return Origin(name, _DEBIASING[leaf], base, False, Evidence.NAME)
    if owner:
        return Origin(name, Role.WEIGHT, None, True, Evidence.NAME)
    if leaf in _COUNTERS or (leaf.startswith("iter") and _ITERATIONS.fullmatch(name)):
        return Origin(name, Role.COUNTER, None, False, Evidence.NAME)
    if _may_be_hyper(leaf) and _HYPER.fullmatch(name):
        return Origin(name, Role.OPTIMIZER, None, False, Evidence.NAME)
    return Origin(name)


def _slots(names: Mapping[str, None], shapes: Shapes) -> dict[str, _Slot]:
    slots = {}
    for name in names:
        found = _slot(name)
        if found is None:
            continue
        owner = _owner(name, found.owner, names, shapes)
        if owner is not None:
            slots[name] = found if owner == found.owner else found._replace(owner=owner)
    return slots


def _slot(name: str) -> _Slot | None:
    """Return what a slot of this name would belong to."""
    leaf = leaf_of(name)
    if leaf in WEIGHT_LEAVES:
        return None
    family = _family(leaf)
    if family is not None:
        return _Slot(name[: -len(leaf) - 1], family, _PLAIN_SUFFIXES.get(leaf, leaf))
    if "_slot_" in leaf and (match := _MESH.fullmatch(name)):
        return _Slot(match[1], "", match[2])
    match = _SCOPED.fullmatch(name)
    return _Slot(match[1], "", match[2]) if match else None


@lru_cache(maxsize=1024)
def _family(leaf: str) -> str | None:
    """Return the optimizer whose slots end so, empty if it is not sure; None for other leaves."""
    if leaf in _PLAIN_SUFFIXES:
        return ""
    match = _SUFFIX.fullmatch(leaf)
    return match and match[1]


@lru_cache(maxsize=1024)
def _may_be_hyper(leaf: str) -> bool:
    """Tell whether a name that ends so may be one of a hyper-parameter, see `_HYPER`."""
    return _HYPER_LEAF.fullmatch(leaf) is not None


def _owner(name: str, base: str, names: Mapping[str, None], shapes: Shapes) -> str | None:
    """Return the variable that is called `base`, or ends it and has the slot's shape.

    A slot made inside a variable scope has the scope before its variable's whole name:
    `OptimizeLoss/dense/kernel/Adam`.
    """
    if base in names:
        return base
    shape = shapes.get(name)
    for _ in range(MAX_SCOPES if shape else 0):
        base = base.partition("/")[2]
        if base in names:
            return base if shapes.get(base) == shape else None
    return None


def _labels(slots: Mapping[str, _Slot]) -> dict[str, str]:
    """Return what each slot is called by its optimizer; its suffix where that is not sure.

    `w/Adam` is `m` and `w/Adam_1` is `v`, if these two are all that `w` has of Adam.
    """
    counts = Counter((slot.owner, slot.family) for slot in slots.values())
    labels = {}
    for name, slot in slots.items():
        order = _FAMILIES.get(slot.family, {}).get(counts[slot.owner, slot.family], ())
        number = int(slot.label.rpartition("_")[2]) if slot.label != slot.family and order else 0
        labels[name] = order[number] if number < len(order) else slot.label
    return labels
