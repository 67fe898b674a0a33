"""Built-in recipes on checkpoints that others made: names and shapes fit the consumer's."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from tensorferry.converters.opening import open_tensors
from tensorferry.pipeline.recipe.apply import apply_recipe
from tensorferry.pipeline.recipe.read import read_recipe

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]


def test_a_tiny_t5_of_mesh_tensorflow(corpus: Path, transformers: ModuleType) -> None:
    """Of this checkpoint one of two shards is lost, so names and shapes are all there is."""
    found = [*corpus.rglob("bad-t5x-missing-shard/*.index")]
    if not found:
        pytest.skip("this corpus has no T5")
    with open_tensors(found[0]) as tensors:
        made = apply_recipe(read_recipe("builtin:t5-gated"), tensors)
        left_out = [tensors.origin(row.sources[0]).role for row in made.rows if row.target is None]
        shapes = {name: tensor.spec.shape for name, tensor in made.items()}
    assert len(left_out) == 53  # 52 slots and the step
    assert not [note for note in made.notes if "no rule" in note.text]
    config = transformers.T5Config(**json.loads(made.files["config.json"]))
    state = transformers.T5ForConditionalGeneration(config).state_dict()
    tied = {"encoder.embed_tokens.weight", "decoder.embed_tokens.weight"}
    assert shapes == {name: tuple(each.shape) for name, each in state.items() if name not in tied}
