"""TensorFlow as a witness: the tensors of checkpoints by key, the constants of frozen graphs.

Neither makes or runs a graph. It is asked for one tensor at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..converters.dtypes import DType
from ..converters.errors import CorruptFileError, UsageError
from ..converters.tensors import TensorDict
from .witness_view import (
    Statement,
    UnseenError,
    View,
    absent,
    first_line,
    importing,
    refused,
    single_file,
    statement,
)

__all__ = ["checkpoint", "frozen"]

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"


def _import_tensorflow() -> Any:
    with importing():
        try:
            import tensorflow
        except ModuleNotFoundError as error:
            raise absent("TensorFlow", error) from error
    return tensorflow


@contextmanager
def checkpoint(opened: TensorDict) -> Iterator[View]:
    """Give what TensorFlow sees in a checkpoint, or in the variables of a SavedModel.

    Raises:
        UsageError: TensorFlow is not installed, or there are no such files.
        CorruptFileError: it does not read them.
    """
    tf = _import_tensorflow()
    prefix = _prefix(opened)
    with refused(prefix, "TensorFlow", CorruptFileError):
        reader = tf.train.load_checkpoint(str(prefix))
        dtypes = reader.get_variable_to_dtype_map()
        shapes = reader.get_variable_to_shape_map()

    def read(key: str) -> Statement:
        dtype = DType.named(dtypes[key].name)
        if dtype is None:
            raise UnseenError(f"its type {dtypes[key].name} is none of ours")
        try:
            return statement(dtype, reader.get_tensor(key))
        except tf.errors.UnimplementedError:  # a partitioned variable in a V1 checkpoint
            return statement(dtype, _joined(tf, prefix, key, shapes[key], dtypes[key]))
        except tf.errors.InternalError as error:  # a variant: no array can hold it
            raise UnseenError(first_line(error)) from error
        except tf.errors.OpError as error:
            raise CorruptFileError(f"cannot read it: {first_line(error)}") from error

    keys = frozenset(dtypes) - {GRAPH_KEY}
    yield View(f"TensorFlow {tf.__version__}", keys, read)


def _joined(tf: Any, prefix: Path, key: str, shape: list[int], dtype: Any) -> Any:
    """Return a partitioned variable of a V1 checkpoint, whose reader gives its slices alone."""
    whole = f"{' '.join(map(str, shape))} {':'.join('-' for _ in shape)}"
    return tf.raw_ops.RestoreSlice(
        file_pattern=str(prefix), tensor_name=key, shape_and_slice=whole, dt=dtype
    ).numpy()


def _prefix(opened: TensorDict) -> Path:
    """Return what TensorFlow calls the checkpoint.

    Raises:
        UsageError: there is none that it could open.
    """
    prefix = opened.details.get("prefix")
    if isinstance(prefix, str):
        place = Path(prefix)
    else:
        place = Path(str(opened.details.get("folder"))) / "variables" / "variables"
    if not place.is_file() and not place.with_name(f"{place.name}.index").is_file():
        raise UsageError(
            "no files that TensorFlow could open", path=place, hint="unpack the archive first"
        )
    return place


@contextmanager
def frozen(opened: TensorDict) -> Iterator[View]:
    """Give the constants that TensorFlow sees in a frozen graph.

    Raises:
        UsageError: TensorFlow is not installed, or there is no such file.
        CorruptFileError: it does not read it.
    """
    tf = _import_tensorflow()
    path = single_file(opened)
    graph = tf.compat.v1.GraphDef()
    with refused(path, "TensorFlow", CorruptFileError):
        if opened.details.get("kind") == "binary":
            graph.ParseFromString(path.read_bytes())
        else:
            from google.protobuf import text_format

            text_format.Parse(path.read_text(encoding="utf-8"), graph)
    constants = {node.name: node.attr["value"].tensor for node in graph.node if node.op == "Const"}

    def read(key: str) -> Statement:
        dtype = DType.named(tf.dtypes.as_dtype(constants[key].dtype).name)
        if dtype is None:
            raise UnseenError("its type is none of ours")
        return statement(dtype, tf.make_ndarray(constants[key]))

    # We leave out what steers the graph and is no weight, such as axes; it sees those as well.
    ours = {opened.origin(name).key for name in opened}
    yield View(f"TensorFlow {tf.__version__}", frozenset(constants) & ours, read)
