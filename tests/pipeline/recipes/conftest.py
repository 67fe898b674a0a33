"""A checkpoint, a built-in recipe, and what the consumer of the result says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tensorferry.pipeline.convert import ConvertOptions, convert
from tensorferry.pipeline.recipe.printing import recipe_text
from tensorferry.pipeline.recipe.read import read_recipe
from tensorferry.pipeline.report import Report

Ferry = Callable[..., Report]
Load = Callable[..., Any]


@pytest.fixture(scope="session")
def transformers(tensorflow: Any) -> ModuleType:
    """Return the consumer of most recipes; TensorFlow is imported first, which is the order."""
    del tensorflow
    pytest.importorskip("torch", reason="the extra `torch` is not installed")
    module: ModuleType = pytest.importorskip(
        "transformers", reason="transformers, the consumer, is not installed"
    )
    return module


@pytest.fixture
def ferry() -> Ferry:
    """Return what converts with a built-in recipe to safetensors, verified."""

    def run(
        source: Path, target: Path, name: str, flags: dict[str, Any] | None = None, **settings: Any
    ) -> Report:
        given = {key: str(value) for key, value in settings.items()}
        recipe = read_recipe(f"builtin:{name}", given)
        options = ConvertOptions(
            target_format="safetensors",
            verify=True,
            recipes=(recipe_text(recipe),),
            **(flags or {}),
        )
        return convert(source, f"{target}/", options)  # the slash: a folder

    return run


@pytest.fixture
def load(transformers: ModuleType) -> Load:
    """Return what loads a folder with a class of transformers, to which nothing may be strange."""

    def loaded(folder: Path, name: str, unexpected: frozenset[str] = frozenset()) -> Any:
        kind = getattr(transformers, name)
        model, info = kind.from_pretrained(folder, output_loading_info=True)
        assert not info["missing_keys"]
        assert set(info["unexpected_keys"]) == unexpected
        assert not info["mismatched_keys"]
        return model.eval()

    return loaded
