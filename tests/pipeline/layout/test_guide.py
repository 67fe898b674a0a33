"""The modules that the guide shows take the weights that it makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.options import Layout

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guide" / "layout.md"
BLOCKS = re.findall(r"^```py\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.M)
NEEDS: dict[str, tuple[Layout, str]] = {
    "torch": ("torch", "m.safetensors"),
    "flax.linen": ("jax", "flax.safetensors"),
    "mlx.nn": ("mlx", "mlx.safetensors"),
}


@pytest.mark.parametrize(("module", "block"), list(zip(NEEDS, BLOCKS, strict=True)))
def test_the_module_takes_its_weights(
    tmp_path: Path, samples: Path, monkeypatch: pytest.MonkeyPatch, module: str, block: str
) -> None:
    pytest.importorskip(module)
    layout, name = NEEDS[module]
    options = ConvertOptions(layout=layout, weights_only=True, strict=True)
    convert(samples / "keras_archive" / "model.keras", tmp_path / name, options)
    monkeypatch.chdir(tmp_path)
    assert name in block
    names: dict[str, object] = {"__name__": "guide"}
    exec(compile(block, str(GUIDE), "exec"), names)
    assert "model" in names or "variables" in names
