"""What goes into models that look at images, and what comes out."""

from __future__ import annotations

from typing import Any

import numpy as np

SIZE, LABELS = 64, 11
_RANDOM = np.random.default_rng(3)
# A picture of 4 by 4 squares, and a noise, or else what is far up in a network looks all the same.
IMAGES = np.kron(_RANDOM.standard_normal((2, 4, 4, 3)), np.full((1, 16, 16, 1), 3.0)).astype("f4")
IMAGES += _RANDOM.standard_normal(IMAGES.shape, np.float32)


def divisible(value: float, least: int = 8) -> int:
    """Return the next multiple of 8, which is at most a tenth below."""
    found = max(least, int(value + 4) // 8 * 8)
    return found + 8 if found < 0.9 * value else found


def logits(model: Any) -> np.ndarray:
    """Return what a classifier says of the images."""
    import torch

    with torch.no_grad():
        found = model(torch.from_numpy(IMAGES).movedim(-1, 1))
    return np.asarray(getattr(found, "logits", found))


def assert_same(model: Any, expected: np.ndarray) -> None:
    """Check that a classifier says what it should, and not the same of both images."""
    assert np.abs(expected[0] - expected[1]).max() > 1e-3
    # Both sum up dozens of layers in float32, each in an order of its own.
    np.testing.assert_allclose(logits(model), expected, rtol=1e-5, atol=1e-5)
