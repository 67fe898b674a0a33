"""One small CNN in Keras, and the same in torch under several names."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

__all__ = ["DISTINCT", "EQUAL", "keras_cnn", "torch_cnn", "truth_of"]

DISTINCT = (3, 4, 6, 8, 10)  # channels in, of three convolutions, and out
EQUAL = (8, 8, 8, 8, 8)


def keras_cnn(keras: Any, channels: tuple[int, ...], names: tuple[str, ...] = ()) -> Any:
    """Return three blocks of convolution and batch normalization, and a dense layer.

    Args:
        keras: the module.
        channels: as above.
        names: of the seven layers with weights, in their order; else Keras names them.
    """
    keras.backend.clear_session()
    given = iter(names or [None] * 7)  # type: ignore[list-item]
    inputs = keras.Input((9, 9, channels[0]))
    flow = inputs
    for filters in channels[1:-1]:
        flow = keras.layers.Conv2D(filters, 3, padding="same", name=next(given))(flow)
        flow = keras.layers.BatchNormalization(name=next(given), epsilon=1e-5)(flow)
        flow = keras.layers.ReLU()(flow)
    flow = keras.layers.GlobalAveragePooling2D()(flow)
    return keras.Model(inputs, keras.layers.Dense(channels[-1], name=next(given))(flow))


def torch_cnn(torch: Any, channels: tuple[int, ...], form: str) -> Any:
    """Return the same in torch; `form` says how its modules are called."""
    nn = torch.nn
    pairs = list(pairwise(channels[:-1]))
    convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairs]
    norms = [nn.BatchNorm2d(b) for _, b in pairs]
    head = nn.Linear(channels[-2], channels[-1])
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    flow = [each for c, n in zip(convolutions, norms, strict=True) for each in (c, n, nn.ReLU())]
    if form == "sequential":
        return nn.Sequential(*flow, *pool, head)
    if form == "features":
        model = nn.Sequential()
        model.add_module("features", nn.Sequential(*flow, *pool))
        model.add_module("classifier", head)
        return model
    model = nn.Sequential()
    words = {"numbered": ("1", "2", "3"), "words": ("_stem", "_middle", "_top")}[form]
    for word, c, n in zip(words, convolutions, norms, strict=True):
        model.add_module(f"conv{word}", c)
        model.add_module(f"bn{word}", n)
        model.add_module(f"relu{word}", nn.ReLU())
    model.add_module("pool", nn.Sequential(*pool))
    model.add_module("fc", head)
    return model


_LEAVES = {
    "gamma": "weight", "beta": "bias", "moving_mean": "running_mean",
    "moving_variance": "running_var", "kernel": "weight", "bias": "bias",
}  # fmt: skip


def truth_of(model: Any, other: Any) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return by name in torch the name in Keras and the steps, layer by layer in their order."""
    layers = [layer for layer in model.layers if layer.weights]
    modules = [(name, each) for name, each in other.named_modules() if hasattr(each, "weight")]
    truth = {}
    for layer, (name, _) in zip(layers, modules, strict=True):
        for variable in layer.weights:
            steps = {4: "permute:[3,2,0,1]", 2: "transpose:True"}.get(len(variable.shape), "")
            target = f"{name}.{_LEAVES[variable.name]}"
            truth[target] = ((f"{layer.name}/{variable.name}",), steps)
    return truth
