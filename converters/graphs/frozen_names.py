"""Which layer a tensor of a graph lies in: what its name says before its last part.

Freezing gives a variable's values to a constant that is called like the node that read it:
`d1/MatMul/ReadVariableOp/resource`, `bn/batchnorm/mul/ReadVariableOp/resource`
(tensorflow/python/framework/convert_to_constants.py, v2.21.0). The layer is what stands before the
names of its operations.
"""

from __future__ import annotations

import re

__all__ = ["path_and_leaf"]

_FROZEN = "/resource"
_AVERAGE = "/ExponentialMovingAverage"  # under which a variable is saved that takes its values
_OPERATIONS = re.compile(
    r"(?:resource|convolution|Reshape|ReadVariableOp|batchnorm|mul|sub|add|Add|AddV2|MatMul|BiasAdd|Conv[23]D|Conv1D|conv1d|"
    r"conv[23]d_transpose|depthwise|separable_conv2d|Tensordot|einsum|embedding_lookup|Cast|"
    r"FusedBatchNorm(?:V[23])?|ExpandDims)(?:_\d+)?"
)


def path_and_leaf(name: str) -> tuple[str, str]:
    """Return the layer of a tensor, empty where it has none, and what it is called in it."""
    name = name.removesuffix(_AVERAGE)
    if not name.endswith(_FROZEN):
        path, _, leaf = name.rpartition("/")
        return path, leaf
    parts = name.split("/")
    at = len(parts)
    while at and _OPERATIONS.fullmatch(parts[at - 1]):
        at -= 1
    return "/".join(parts[:at]), "/".join(parts[at:])
