"""What the BERT family has in common: embeddings, a layer, and what goes in and comes out."""

from __future__ import annotations

from typing import Any

import numpy as np

from .graphs import Graph

WORDS, POSITIONS, WIDTH, LAYERS, HEADS = 53, 16, 128, 2, 2
HEAD = 64
IDS = np.random.default_rng(1).integers(0, WORDS, (2, 9))
TYPES = np.array([[0] * 5 + [1] * 4, [0] * 9])


def gelu(graph: Graph, x: Any) -> Any:
    return graph.tf.nn.gelu(x, approximate=False)


def embedded(graph: Graph, width: int = WIDTH) -> Any:
    """Return the table of words and the sum of all embeddings."""
    with graph.scope("embeddings"):
        words = graph.variable("word_embeddings", WORDS, width)
        types = graph.variable("token_type_embeddings", 2, width)
        places = graph.variable("position_embeddings", POSITIONS, width)
        gather = graph.tf.gather
        summed = gather(words, IDS) + gather(types, TYPES) + places[: IDS.shape[1]]
        return words, graph.norm(summed)


def layer(graph: Graph, x: Any, width: int = WIDTH) -> Any:
    with graph.scope("attention"):
        with graph.scope("self"):
            parts = [
                graph.heads(graph.dense(x, width, part), width // HEAD)
                for part in ("query", "key", "value")
            ]
            mixed = graph.attend(*parts, scale=HEAD**-0.5)
        with graph.scope("output"):
            x = graph.norm(graph.dense(mixed, width) + x)
    with graph.scope("intermediate"):
        wide = gelu(graph, graph.dense(x, 4 * width))
    with graph.scope("output"):
        return graph.norm(graph.dense(wide, width) + x)


def inputs() -> dict[str, Any]:
    import torch

    return {"input_ids": torch.from_numpy(IDS), "token_type_ids": torch.from_numpy(TYPES)}


def outputs(model: Any, *names: str) -> list[np.ndarray]:
    import torch

    with torch.no_grad():
        found = model(**inputs())
    return [found[name].numpy() for name in names]


def assert_close(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
