"""Who tells what tensors are used for; asked only by those who want to know.

What reads graphs and configs for that is imported when it is asked, so that a conversion which
leaves layouts alone does not pay for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ..containers.messages import Body
from ..tensors import Origin, Role, Tensor
from ..uses import Uses
from .keras_config import Layer
from .keras_layout import BESIDE
from .meta_graph import read_meta

__all__ = ["uses_of_meta", "uses_of_model", "uses_of_variables"]


def uses_of_model(model: Layer | None, origins: Mapping[str, Origin]) -> Callable[[], Uses] | None:
    """Return what tells the uses of the tensors of a Keras model, or None without a config.

    Args:
        model: from the config.
        origins: of all tensors, by name.
    """
    if model is None:
        return None

    def tell() -> Uses:
        from .keras_uses import uses_of_config

        names = (name for name, origin in origins.items() if origin.role not in BESIDE)
        return uses_of_config(model, frozenset(names))

    return tell


def uses_of_meta(
    meta: Path | None, origins: Mapping[str, Origin], tensors: Mapping[str, Tensor]
) -> Callable[[], Uses] | None:
    """Return what tells the uses of variables by the meta graph beside them, None without one.

    Args:
        meta: its path.
        origins: of all tensors, by name.
        tensors: by name.
    """
    if meta is None:
        return None
    return uses_of_variables(lambda: read_meta(meta).graph, origins, tensors)


def uses_of_variables(
    graph: Callable[[], Body | None],
    origins: Mapping[str, Origin],
    tensors: Mapping[str, Tensor],
    copies: Mapping[str, str] | None = None,
) -> Callable[[], Uses]:
    """Return what tells the uses of the variables of a model.

    Args:
        graph: gives the GraphDef; called when somebody asks. None where there is none.
        origins: of all tensors, by name.
        tensors: by name.
        copies: keys under which a variable is stored once more, with its own key.
    """

    def tell() -> Uses:
        from .graph_uses import uses_of_graph

        body = graph()
        if body is None:
            return Uses()
        called = {_variable(name, origin, origins): name for name, origin in origins.items()}
        keys = {
            variable: [origins[name].key]
            for variable, name in called.items()
            if variable and name in tensors and _may_be_weight(origins[name], tensors[name])
        }
        names = {own[0]: name for name, own in keys.items()}
        for second, first in (copies or {}).items():
            if first in names:
                keys[names[first]].append(second)
        shapes = {variable: tensors[called[variable]].spec.shape for variable in keys}
        return uses_of_graph(body, keys, shapes)

    return tell


def _may_be_weight(origin: Origin, tensor: Tensor) -> bool:
    """Tell it of a constant: a graph has numbers of its own, as an epsilon or a shape."""
    spec = tensor.spec
    return origin.role is not Role.CONSTANT or (bool(spec.shape) and "float" in spec.dtype.label)


def _variable(name: str, origin: Origin, origins: Mapping[str, Origin]) -> str:
    """Return the variable that a tensor is, or stands for as its moving average; else nothing."""
    if origin.role is Role.AVERAGE and origin.owner and origin.owner not in origins:
        return origin.owner
    return "" if origin.role in BESIDE else name
