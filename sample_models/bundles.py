"""Tensor bundles of samples: giving the truth to what is saved in them, and checking it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
from truth import BOOKKEEPING, expected

Entries = dict[str, tuple[tf.DType, tuple[int, ...]]]
Slice = tuple[str, str, np.ndarray]  # key, SaveV2's shape_and_slice, values

LIST_OF = ("float32", (3, 2))  # what a tensor list, which is a variant, holds


def truth_tensor(key: str, dtype: tf.DType, shape: tuple[int, ...]) -> tf.Tensor:
    """Return what a tensor of this key holds."""
    value = expected(key, dtype.name, shape)
    if dtype.is_quantized:
        return tf.bitcast(value, dtype)
    return tf.constant(value, dtype=dtype)


def save_v2(prefix: str, tensors: dict[str, tf.Tensor], slices: Sequence[Slice] = ()) -> None:
    """Save tensors by key, and slices of others, as a bundle."""
    rows = [(key, "", tensor) for key, tensor in tensors.items()]
    names, specs, values = zip(*rows, *slices, strict=True)
    tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=specs, tensors=values)


def entries_of(prefix: str) -> Entries:
    """Return dtype and shape of every tensor of a bundle, by key."""
    reader = tf.train.load_checkpoint(prefix)
    shapes = reader.get_variable_to_shape_map()
    dtypes = reader.get_variable_to_dtype_map()
    return {key: (dtypes[key], tuple(shapes[key])) for key in sorted(shapes)}


def write_truth(prefix: str, entries: Entries) -> None:
    """Save a bundle of tensors that all hold the truth."""
    save_v2(prefix, {key: truth_tensor(key, *entry) for key, entry in entries.items()})


def restore_truth_like(save: Callable[[str], object], restore: Callable[[str], object]) -> None:
    """Give an object-based model the truth; `save` and `restore` take the prefix of a bundle."""
    with tempfile.TemporaryDirectory() as scratch:
        draft, prefix = f"{scratch}/draft", f"{scratch}/truth"
        save(draft)
        reader = tf.train.load_checkpoint(draft)
        tensors = {
            key: tf.constant(reader.get_tensor(key))
            if key in BOOKKEEPING
            else truth_tensor(key, *entry)
            for key, entry in entries_of(draft).items()
        }
        save_v2(prefix, tensors)
        restore(prefix)


def verify(prefix: str) -> int:
    """Compare every tensor of the bundle with the truth, and count those that follow the rule."""
    entries = {key: entry for key, entry in entries_of(prefix).items() if key not in BOOKKEEPING}
    for key, (dtype, shape) in entries.items():
        rule = LIST_OF if dtype == tf.variant else (dtype.name, shape)
        found, truth = _read(prefix, key, dtype), expected(key, *rule)
        np.testing.assert_array_equal(found, truth, err_msg=key, strict=True)
    return len(entries)


def _read(prefix: str, key: str, dtype: tf.DType) -> np.ndarray:
    if dtype == tf.variant:
        return _stacked_list(prefix, key)
    found = tf.train.load_checkpoint(prefix).get_tensor(key)
    # A scalar string comes as bytes, which numpy would make an `S` array.
    return np.asarray(found, dtype=object if dtype == tf.string else None)


def _stacked_list(prefix: str, key: str) -> np.ndarray:
    (handle,) = tf.raw_ops.RestoreV2(
        prefix=prefix, tensor_names=[key], shape_and_slices=[""], dtypes=[tf.variant]
    )
    dtype, shape = LIST_OF
    return tf.raw_ops.TensorListStack(
        input_handle=handle, element_shape=shape[1:], element_dtype=tf.as_dtype(dtype)
    ).numpy()
