"""The variables of Keras's own layers, by class, in the order in which they are stored.

An object stores its own variables by number: what is trained in the order of creation, then what
is not. Names are in no weights file; they follow from the class and its config. Where the number
of variables or a rank is not what the class would have, nothing is named.

Verified against keras 3.15 and tf_keras 2.21 (live models) and archives of 2.15 and 3.15. The
quantised orders are `variable_serialization_spec` of keras/src/layers/core (v3.15.0).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from ..dtypes import DType
from ..tensors import Role, TensorSpec
from .keras_config import Layer, snake_case

__all__ = [
    "Expected", "Variable", "variables_expected", "variables_of_class", "variables_of_layer",
]  # fmt: skip


class Variable(NamedTuple):
    """What a variable is called and for.

    Attributes:
        name: its own name, without that of its layer.
        role: weight or state.
        trained: whether training changes it, unless its layer is frozen.
        alias: whether it is another object's variable, stored once more.
    """

    name: str
    role: Role = Role.WEIGHT
    trained: bool = True
    alias: bool = False


class Expected(NamedTuple):
    """A variable that has to be there, and its number of dimensions, or None for any."""

    variable: Variable
    rank: int | None


class _Rule(NamedTuple):
    """A variable that a class has, always or under a condition on the config."""

    variable: Variable
    rank: int | None = None
    when: Callable[[Mapping[str, Any]], bool] | None = None


def _flag(key: str, *, default: bool = True) -> Callable[[Mapping[str, Any]], bool]:
    return lambda config: bool(config.get(key, default))


def _weight(name: str, rank: int | None = None, when: str | None = None) -> _Rule:
    return _Rule(Variable(name), rank, _flag(when) if when else None)


def _state(name: str, rank: int | None = None) -> _Rule:
    return _Rule(Variable(name, Role.STATE, trained=False), rank)


_BIAS = _weight("bias", 1, "use_bias")
_EINSUM_BIAS = _Rule(Variable("bias"), None, _flag("bias_axes", default=False))
_SCALE_AND_SHIFT = (_weight("gamma", None, "scale"), _weight("beta", None, "center"))


def _not_given(config: Mapping[str, Any]) -> bool:
    return config.get("mean") is None


def _cell(kernel_rank: int, bias_rank: int | None = 1) -> tuple[_Rule, ...]:
    return (
        _weight("kernel", kernel_rank),
        _weight("recurrent_kernel", kernel_rank),
        _weight("bias", bias_rank, "use_bias"),
    )


def _batch_normalization() -> tuple[_Rule, ...]:
    together = _flag("renorm", default=False)
    renorm = [
        _Rule(Variable(name, Role.STATE, trained=False), 1, together)
        for name in ("moving_stddev", "renorm_mean", "renorm_stddev")
    ]
    return (*_SCALE_AND_SHIFT, _state("moving_mean", 1), _state("moving_variance", 1), *renorm)


_TABLE: dict[str, tuple[_Rule, ...]] = {
    "Dense": (_weight("kernel", 2), _BIAS),
    "EinsumDense": (_weight("kernel"), _EINSUM_BIAS),
    "Embedding": (_weight("embeddings", 2),),
    "ReversibleEmbedding": (
        _weight("embeddings", 2),
        _Rule(Variable("reverse_embeddings"), 2, lambda config: not config.get("tie_weights", 1)),
    ),
    "BatchNormalization": _batch_normalization(),
    "SyncBatchNormalization": _batch_normalization(),
    "LayerNormalization": _SCALE_AND_SHIFT,
    "GroupNormalization": _SCALE_AND_SHIFT,
    "RMSNormalization": (_weight("scale"),),
    "SpectralNormalization": (
        _Rule(Variable("kernel", alias=True)),
        _state("vector_u", 2),
    ),
    "Normalization": (
        _Rule(Variable("mean", Role.STATE, trained=False), None, _not_given),
        _Rule(Variable("variance", Role.STATE, trained=False), None, _not_given),
        _Rule(Variable("count", Role.STATE, trained=False), 0, _not_given),
    ),
    "PReLU": (_weight("alpha"),),
    "Attention": (
        _Rule(Variable("scale"), 0, _flag("use_scale", default=False)),
        _Rule(
            Variable("concat_score_weight"), 0, lambda config: config.get("score_mode") == "concat"
        ),
    ),
    "AdditiveAttention": (_weight("scale", 1, "use_scale"),),
    "LSTMCell": _cell(2),
    "GRUCell": _cell(2, None),  # (3u), or (2, 3u) with reset_after
    "SimpleRNNCell": _cell(2),
}
for _dims in (1, 2, 3):
    _TABLE[f"Conv{_dims}D"] = (_weight("kernel", _dims + 2), _BIAS)
    _TABLE[f"Conv{_dims}DTranspose"] = (_weight("kernel", _dims + 2), _BIAS)
    _TABLE[f"DepthwiseConv{_dims}D"] = (_weight("kernel", _dims + 2), _BIAS)
    _TABLE[f"SeparableConv{_dims}D"] = (
        _weight("depthwise_kernel", _dims + 2),
        _weight("pointwise_kernel", _dims + 2),
        _BIAS,
    )
    _TABLE[f"ConvLSTM{_dims}DCell"] = _cell(_dims + 2)

_BY_GROUP = {snake_case(kind): kind for kind in _TABLE}
# Groups of attributes, by the class of the object that has them.
_BY_ATTRIBUTE = {
    ("lstm", "cell"): "LSTMCell",
    ("gru", "cell"): "GRUCell",
    ("simple_rnn", "cell"): "SimpleRNNCell",
    **{(snake_case(f"ConvLSTM{dims}D"), "cell"): f"ConvLSTM{dims}DCell" for dims in (1, 2, 3)},
    **{
        (attention, f"{private}{part}_dense"): "EinsumDense"
        for attention in ("multi_head_attention", "grouped_query_attention")
        for private in ("", "_")
        for part in ("query", "key", "value", "output")
    },
}


def variables_of_layer(layer: Layer, stored: Sequence[TensorSpec]) -> tuple[Variable, ...] | None:
    """Return the variables of an object of the config, or None where they do not fit.

    Args:
        layer: the object.
        stored: its own variables in the file, by number.
    """
    if not layer.library or layer.kind not in _TABLE:
        return None
    rules = _TABLE[layer.kind]
    present = [rule for rule in rules if rule.when is None or rule.when(layer.config)]
    if _fits(present, stored):
        return _named(layer.kind, present, layer.keras)
    return _quantised(layer.kind, layer.mode or "", present, stored)


def variables_of_class(
    group: str, attribute: str | None, stored: Sequence[TensorSpec], keras: int
) -> tuple[Variable, ...] | None:
    """Return the variables of an object of which only the class is known, by its group.

    All combinations of what may be left out are tried; one alone must fit. What has the same
    condition is there together or not at all.

    Args:
        group: snake-case class of the object, or of the one that has it as an attribute.
        attribute: that attribute.
        stored: its own variables in the file, by number.
        keras: major version of the Keras that wrote it.
    """
    kind = _BY_ATTRIBUTE.get((group, attribute)) if attribute else _BY_GROUP.get(group)
    if kind is None:
        return None
    fitting = [rules for rules in _subsets(_TABLE[kind]) if _fits(rules, stored)]
    return _named(kind, fitting[0], keras) if len(fitting) == 1 else None


def _subsets(rules: Sequence[_Rule]) -> Iterator[list[_Rule]]:
    conditions = dict.fromkeys(rule.when for rule in rules if rule.when is not None)
    for chosen in product((True, False), repeat=len(conditions)):
        met = dict(zip(conditions, chosen, strict=True))
        yield [rule for rule in rules if rule.when is None or met[rule.when]]


def _fits(rules: Sequence[_Rule], stored: Sequence[TensorSpec]) -> bool:
    if len(rules) != len(stored) or any(spec.dtype is DType.INT8 for spec in stored):
        return False
    pairs = zip(rules, stored, strict=True)
    return all(rule.rank is None or rule.rank == len(spec.shape) for rule, spec in pairs)


def _named(kind: str, rules: Sequence[_Rule], keras: int) -> tuple[Variable, ...]:
    variables = [rule.variable for rule in rules]
    if kind.startswith("DepthwiseConv") and keras < 3:
        variables[0] = variables[0]._replace(name="depthwise_kernel")
    return tuple(variables)


# Quantised layers

_FLOAT8 = ("inputs_scale", "inputs_amax_history", "kernel_scale", "kernel_amax_history",
           "outputs_grad_scale", "outputs_grad_amax_history")  # fmt: skip


def _quantised(
    kind: str, mode: str, rules: Sequence[_Rule], stored: Sequence[TensorSpec]
) -> tuple[Variable, ...] | None:
    """Return the variables of a quantised layer.

    Attention does not tell the mode of its dense layers (keras 3.15), so that int8 and float8 are
    known by the arrays themselves; gptq and awq only by their mode.
    """
    own = [rule.variable.name for rule in rules]
    if kind in ("Embedding", "ReversibleEmbedding"):
        names = _embedding_names(own, len(stored))
    elif kind in ("Dense", "EinsumDense"):
        names = _dense_names(own, mode, stored)
    else:
        return None
    if names is None or len(names) != len(stored):
        return None
    # Training overwrites what float8 keeps; scales of integers stay.
    trained = names if names[len(own) :] == list(_FLOAT8) else own
    pairs = zip(names, stored, strict=True)
    return tuple(
        Variable(name, trained=spec.dtype is not DType.INT8 and name in trained)
        for name, spec in pairs
    )


def _dense_names(own: list[str], mode: str, stored: Sequence[TensorSpec]) -> list[str] | None:
    if mode.startswith(("gptq", "awq")):
        extra = ["awq_scales"] if mode.startswith("awq") else []
        rest = ["quantized_kernel", "kernel_scale", "kernel_zero", *extra, "g_idx"]
        return [*own[1:], *rest]
    if len(stored) < 2:
        return None
    if stored[0].dtype is not DType.INT8:
        return [*own, *_FLOAT8] if _is_float8(stored[len(own) :]) else None
    names = [*own, "kernel_scale"]
    # Scales in blocks have zero points and a map from rows to blocks as well.
    return names if len(stored) == len(names) else [*names, "kernel_zero", "g_idx"]


def _is_float8(stored: Sequence[TensorSpec]) -> bool:
    return [len(spec.shape) for spec in stored] == [0, 1] * (len(_FLOAT8) // 2)


def _embedding_names(own: list[str], count: int) -> list[str] | None:
    names = ["embeddings", "embeddings_scale"]
    reverse = ["reverse_embeddings", "reverse_embeddings_scale"] if len(own) > 1 else []
    plain = [*names, *reverse]
    if count == len(plain):
        return plain
    zero = ["reverse_embeddings_zero"] if reverse else []
    return [*names, "embeddings_zero", "g_idx", *reverse, *zero]


# What has to be there


def variables_expected(layer: Layer, available: Collection[str]) -> tuple[Expected, ...] | None:
    """Return the variables that an object must have in a file; None where its class tells none.

    Args:
        layer: the object.
        available: names of variables that there are for it; they tell how it is quantised where
            its config does not.
    """
    if not layer.library or layer.kind not in _TABLE:
        return None
    present = [rule for rule in _TABLE[layer.kind] if rule.when is None or rule.when(layer.config)]
    named = _named(layer.kind, present, layer.keras)
    own = [variable.name for variable in named]
    names = _quantised_order(layer, own, available)
    if names is None:
        pairs = zip(named, present, strict=True)
        return tuple(Expected(variable, rule.rank) for variable, rule in pairs)
    trained = {*own, *_FLOAT8}
    return tuple(Expected(Variable(name, trained=name in trained), None) for name in names)


def _quantised_order(layer: Layer, own: list[str], available: Collection[str]) -> list[str] | None:
    """Return the names of a quantised layer's arrays in order; None where it has real weights."""
    orders = [names for names in _orders(layer.kind, own) if set(names) <= set(available)]
    if orders:
        return max(orders, key=len)
    mode, _, block = (layer.mode or "").partition("/")
    if layer.kind == "Embedding" and mode in ("int8", "int4"):
        return _embedding_names(own, 4 if block and block != "-1" else 2)
    if layer.kind in ("Dense", "EinsumDense") and mode in ("int8", "int4"):
        blocks = ["kernel_zero", "g_idx"] if block and block != "-1" else []
        return [*own, "kernel_scale", *blocks]
    return None


def _orders(kind: str, own: list[str]) -> Iterator[list[str]]:
    """Yield every list of arrays that a quantised layer of this class may have."""
    if kind in ("Embedding", "ReversibleEmbedding"):
        for count in (2, 4, 7):
            names = _embedding_names(own, count)
            if names is not None:
                yield names
    if kind in ("Dense", "EinsumDense"):
        scales = ["quantized_kernel", "kernel_scale", "kernel_zero"]
        yield [*own[1:], *scales, "g_idx"]
        yield [*own[1:], *scales, "awq_scales", "g_idx"]
        yield [*own, *_FLOAT8]
        yield [*own, "kernel_scale"]
        yield [*own, "kernel_scale", "kernel_zero", "g_idx"]
