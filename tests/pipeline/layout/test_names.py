"""What names say where neither a graph nor a config does: only what leaves no choice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorferry.converters.uses import Evidence, LayerKind
from tensorferry.pipeline.layout.names import uses_of_names

CLEAR = [
    ("dense/kernel", (4, 3), LayerKind.DENSE, "kernel"),
    ("model/my_dense_12/bias", (3,), LayerKind.DENSE, "bias"),
    ("conv1d/kernel", (3, 4, 5), LayerKind.CONV, "kernel"),
    ("conv2d_3/kernel", (3, 3, 4, 5), LayerKind.CONV, "kernel"),
    ("conv3d/kernel", (2, 2, 2, 3, 5), LayerKind.CONV, "kernel"),
    ("conv2d_transpose_1/kernel", (3, 3, 5, 4), LayerKind.CONV_TRANSPOSE, "kernel"),
    ("depthwise_conv2d/depthwise_kernel", (3, 3, 4, 1), LayerKind.DEPTHWISE, "kernel"),
    ("separable_conv2d/pointwise_kernel", (1, 1, 8, 5), LayerKind.SEPARABLE, "pointwise_kernel"),
    ("embedding/embeddings", (10, 3), LayerKind.EMBEDDING, "embeddings"),
    ("batch_normalization_v1_2/moving_mean", (4,), LayerKind.BATCH_NORM, "moving_mean"),
    ("InceptionV3/Mixed_5b/BatchNorm/beta", (4,), LayerKind.BATCH_NORM, "beta"),
    ("any/name/moving_mean", (4,), LayerKind.BATCH_NORM, "moving_mean"),
    ("encoder/LayerNorm/gamma", (4,), LayerKind.LAYER_NORM, "gamma"),
]


@pytest.mark.parametrize(("name", "shape", "kind", "part"), CLEAR)
def test_clear(name: str, shape: tuple[int, ...], kind: LayerKind, part: str) -> None:
    names = {name: shape}
    if name.startswith("any"):
        names |= {"any/name/moving_variance": shape, "any/name/gamma": shape}
    found = uses_of_names(names)
    use = found.known[name]
    assert (use.kind, use.part, use.layer) == (kind, part, name.rpartition("/")[0])
    assert use.evidence is Evidence.NAME
    assert found.undecided == {}


OPEN = [
    ("kernel", (4, 3)),
    ("dense/kernel", (4, 4)),
    ("dense/kernel", (3, 4, 4)),
    ("dense/weights", (4, 3)),
    ("conv2d/kernel", (3, 4, 5)),
    ("conv1d/kernel", (3, 3, 4, 5)),
    ("notconv2d/kernel", (3, 3, 4, 5)),
    ("conv2dx/kernel", (3, 3, 4, 5)),
    ("dense/kernel/Adam", (4, 3)),
    ("lstm/kernel", (4, 12)),
    ("block/gamma", (4,)),
    ("embedding/embeddings", (10,)),
    ("dense\n/kernel", (4, 3)),
    ("DENSE/kernel", (4, 3)),
]


@pytest.mark.parametrize(("name", "shape"), OPEN)
def test_open(name: str, shape: tuple[int, ...]) -> None:
    found = uses_of_names({name: shape})
    assert found.known == {}
    assert list(found.undecided) == [name]


def test_the_bias_of_a_square_kernel_waits_with_it() -> None:
    found = uses_of_names({"dense/kernel": (4, 4), "dense/bias": (4,), "dense_1/bias": (2,)})
    assert set(found.undecided) == {"dense/kernel", "dense/bias"}
    assert "square" in found.undecided["dense/kernel"]


@pytest.mark.parametrize(
    ("rows", "flattened"), [(5, None), (7, None), (45, "perhaps"), (10, "perhaps"), (4, None)]
)
def test_a_dense_kernel_that_may_read_what_a_convolution_gave(
    rows: int, flattened: str | None
) -> None:
    found = uses_of_names({"conv2d/kernel": (3, 3, 4, 5), "dense/kernel": (rows, 2)})
    assert found.known["dense/kernel"].facts.get("flattened") == flattened


@given(st.dictionaries(st.text(max_size=40), st.lists(st.integers(0, 9), max_size=6).map(tuple)))
def test_every_tensor_is_told_or_listed(names: dict[str, tuple[int, ...]]) -> None:
    found = uses_of_names(names)
    assert {*found.known, *found.undecided} == set(names)
    assert not set(found.known) & set(found.undecided)


@pytest.mark.parametrize("name", ["dense" + "_1" * 20000 + "/kernel", "_" * 50000 + "/kernel"])
def test_long_names_take_no_time(name: str) -> None:
    assert len(uses_of_names({name: (4, 3)}).undecided) in (0, 1)
