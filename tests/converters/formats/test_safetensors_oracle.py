"""Files for the hub, loaded as its users load them: with PyTorch and huggingface_hub."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.converters.registry import WriteOptions
from tensorferry.converters.testing.contracts import contents
from tensorferry.pipeline.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def torch() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torch", reason="needs PyTorch: pip install '.[torch]'")


@pytest.fixture(scope="module")
def hub() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "huggingface_hub", reason="needs huggingface_hub: pip install '.[torch]'"
        )


def raw(torch: Any, tensor: Any) -> tuple[tuple[int, ...], bytes]:
    """Return shape and bytes; numpy has no bfloat16 to go through."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tuple(tensor.shape), flat.numpy().tobytes()


def stored(path: Path) -> dict[str, tuple[tuple[int, ...], bytes]]:
    """Return shape and bytes of what we read under the names in the file, the records aside."""
    with open_tensors(path) as tensors:
        return {
            tensors.origin(name).key: (shape, data)
            for name, (dtype, shape, data) in contents(tensors).items()
            if not dtype.variable and isinstance(data, bytes)
        }


def sharded(limit: int, **options: Any) -> ConvertOptions:
    return ConvertOptions(
        target_format="safetensors",
        verify=True,
        write=WriteOptions(max_shard_bytes=limit, folder=True, **options),
    )


def weight_map(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / INDEX).read_bytes())["weight_map"]
    return found


# PyTorch


def test_torch_loads_all_types(torch: Any, samples: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    target = tmp_path / "m.safetensors"
    options = ConvertOptions(exclude=("dtype/complex128",))
    convert(samples / "all_dtypes" / "bundle", target, options)
    found = load_file(target)
    assert {name: raw(torch, tensor) for name, tensor in found.items()} == stored(target)
    assert found["dtype/bfloat16"].dtype is torch.bfloat16
    assert found["dtype/float8_e4m3fn"].dtype is torch.float8_e4m3fn
    assert found["dtype/bool"].dtype is torch.bool


def test_torch_loads_what_a_cast_made(torch: Any, samples: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    target = tmp_path / "m.safetensors"
    convert(samples / "tf1_adam_ema", target, ConvertOptions(dtypes=("bf16",)))
    convert(samples / "tf1_adam_ema", tmp_path / "plain.safetensors")
    plain = load_file(tmp_path / "plain.safetensors")
    for name, tensor in load_file(target).items():
        if tensor.dtype is torch.bfloat16:
            assert raw(torch, tensor) == raw(torch, plain[name].to(torch.bfloat16)), name
    assert load_file(target)["dense/kernel"].dtype is torch.bfloat16


def test_torch_loads_the_shards(torch: Any, samples: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    convert(samples / "tf1_adam_ema", tmp_path, sharded(300))
    found = {}
    for name in sorted(set(weight_map(tmp_path).values())):
        part = load_file(tmp_path / name)
        assert {weight_map(tmp_path)[each] for each in part} == {name}
        found |= part
    assert {name: raw(torch, tensor) for name, tensor in found.items()} == stored(tmp_path)


# huggingface_hub


@pytest.mark.parametrize("seed", range(8))
def test_tensors_are_split_as_the_hub_does(hub: Any, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    limit = draw.choice([0, 50, 300, 1000])
    sizes = {f"t{n}": draw.choice([0, 1, 40, 300, 301, 900]) for n in range(draw.randint(2, 40))}
    names = list(sizes)
    draw.shuffle(names)
    with h5py.File(tmp_path / "source.h5", "w", track_order=True) as file:
        for name in names:
            file[name] = np.zeros(sizes[name], np.uint8)
    with open_tensors(tmp_path / "source.h5") as tensors:
        order = list(tensors)
    expected = hub.split_state_dict_into_shards_factory(
        {name: sizes[name] for name in order},
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=limit,
    )
    convert(tmp_path / "source.h5", tmp_path / "out", sharded(limit))
    if not expected.is_sharded:
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
        return
    index = json.loads((tmp_path / "out" / INDEX).read_bytes())
    assert index == {"metadata": expected.metadata, "weight_map": expected.tensor_to_filename}


def module(torch: Any, shapes: dict[str, tuple[int, ...]]) -> Any:
    """Return a model with these parameters, all zero."""
    model = torch.nn.Module()
    for name, shape in shapes.items():
        model.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))
    return model


SHAPES: dict[str, tuple[int, ...]] = {"embed": (8, 4), "inner": (4, 4), "bias": (4,), "none": (0,)}


def weights_h5(path: Path) -> dict[str, np.ndarray]:
    """Write and return weights of these shapes."""
    values = {
        name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        for name, shape in SHAPES.items()
    }
    with h5py.File(path, "w") as file:
        for name, value in values.items():
            file[name] = value
    return values


@pytest.mark.parametrize("limit", [100, 10_000])
def test_the_hub_loads_a_folder(torch: Any, hub: Any, tmp_path: Path, limit: int) -> None:
    values = weights_h5(tmp_path / "w.h5")
    convert(tmp_path / "w.h5", tmp_path / "out", sharded(limit))
    assert (tmp_path / "out" / INDEX).exists() == (limit == 100)
    model = module(torch, SHAPES)
    hub.load_torch_model(model, tmp_path / "out", strict=True)
    for name, value in values.items():
        assert np.array_equal(model.get_parameter(name).detach().numpy(), value), name


def test_what_the_hub_wrote_is_read_and_split_anew(torch: Any, hub: Any, tmp_path: Path) -> None:
    state = {name: torch.rand(shape).to(torch.bfloat16) for name, shape in SHAPES.items()}
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    hub.save_torch_state_dict(state, theirs, max_shard_size=64, metadata={"author": "somebody"})
    with open_tensors(theirs) as tensors:
        assert tensors.metadata == {"format": "pt", "author": "somebody"}
        assert set(tensors) == set(SHAPES)
    convert(theirs, ours, sharded(35))
    assert len(set(weight_map(theirs).values())) == 2
    assert len(set(weight_map(ours).values())) == 3
    assert stored(ours) == stored(theirs) == {n: raw(torch, each) for n, each in state.items()}
    model = module(torch, SHAPES).to(torch.bfloat16)
    hub.load_torch_model(model, ours, strict=True)
    assert all(torch.equal(model.get_parameter(name), each) for name, each in state.items())


# Tied weights


def tied_module(torch: Any) -> Any:
    model = module(torch, SHAPES)
    model.head = model.embed
    return model


def tied_h5(path: Path) -> dict[str, np.ndarray]:
    values = weights_h5(path)
    with h5py.File(path, "a") as file:
        file["head"] = file["embed"]
    return values


def test_tied_weights_load_into_a_model_that_ties_them(torch: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, load_model

    values = tied_h5(tmp_path / "w.h5")
    convert(tmp_path / "w.h5", tmp_path / "m.safetensors", ConvertOptions(verify=True))
    assert set(load_file(tmp_path / "m.safetensors")) == set(SHAPES)
    model = tied_module(torch)
    assert load_model(model, tmp_path / "m.safetensors", strict=True) == (set(), [])
    assert np.array_equal(model.head.detach().numpy(), values["embed"])


def test_untied_weights_load_into_any_model(torch: Any, hub: Any, tmp_path: Path) -> None:
    values = tied_h5(tmp_path / "w.h5")
    convert(tmp_path / "w.h5", tmp_path / "out", sharded(10_000, untie=True))
    model = module(torch, SHAPES | {"head": SHAPES["embed"]})
    hub.load_torch_model(model, tmp_path / "out", strict=True)
    assert np.array_equal(model.head.detach().numpy(), values["embed"])
    assert model.head is not model.embed
