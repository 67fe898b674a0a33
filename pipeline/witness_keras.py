"""Keras as a witness: it loads a model and saves it again, and that is read with h5py.

A model is refused, before Keras is imported, if its config has anything but layers of Keras
itself: Keras would look up, import or run it. Keras holds the whole model, and what it saves takes
as much space in the folder for temporary files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ..converters.containers.strict_json import read_json
from ..converters.dtypes import DType
from ..converters.errors import UnsafeFileError, UsageError
from ..converters.graphs.risky_config import risky_parts
from ..converters.tensors import TensorDict
from .witness_view import (
    Statement,
    UnseenError,
    View,
    absent,
    importing,
    refused,
    single_file,
    statement,
)

__all__ = ["keras_model"]


@contextmanager
def keras_model(opened: TensorDict) -> Iterator[View]:
    """Load a model with Keras, and give what it saves again, by the same keys.

    Raises:
        UsageError: there are only weights, Keras is not installed, or does not load it.
        UnsafeFileError: Keras would run code of the model.
    """
    path = single_file(opened)
    _refuse_code(opened, path)
    module = _import_keras(opened)
    title = f"{'Keras' if module.__name__ == 'keras' else 'tf_keras'} {module.__version__}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        again = folder / ("again.h5" if opened.format == "keras-h5" else "again.weights.h5")
        with refused(path, title, UsageError):
            model = module.saving.load_model(str(path), compile=False, safe_mode=True)
            save = model.save if opened.format == "keras-h5" else model.save_weights
            with redirect_stdout(None):
                save(str(again))
        del model
        import h5py

        file = stack.enter_context(h5py.File(again, "r"))
        keys: list[str] = []
        file.visititems(lambda key, each: keys.append(key) if hasattr(each, "shape") else None)

        def read(key: str) -> Statement:
            dtype = DType.named(file[key].dtype.name)
            if dtype is None:
                raise UnseenError(f"its type {file[key].dtype} is none of ours")
            return statement(dtype, file[key][()])

        # Keras makes variables of its own, such as seeds; what we have is looked for.
        ours = {opened.origin(name).key for name in opened}
        yield View(title, frozenset(keys) & ours, read)


def _import_keras(opened: TensorDict) -> Any:
    """Import what wrote the model: tf_keras is Keras 2, and reads what that wrote."""
    written_by = str(opened.details.get("producer_version", ""))
    modern = written_by.startswith("3")
    with importing():
        try:
            if modern:
                import keras
            else:
                import tf_keras as keras
        except ModuleNotFoundError as error:
            raise absent("Keras" if modern else "tf_keras", error) from error
    return keras


def _refuse_code(opened: TensorDict, path: Path) -> None:
    """Refuse a model that Keras could not load without running something of it.

    Raises:
        UsageError: there is no config; Keras loads weights only into a model.
        UnsafeFileError: the config has more than layers of Keras itself.
    """
    for name in ("config.json", "model_config"):
        source = opened.attachments.get(name)
        if source is not None:
            config = read_json(source)
            break
    else:
        raise UsageError(
            "weights alone: Keras reads them only into a model", path=path,
            hint="name the .keras or .h5 file of the whole model",
        )  # fmt: skip
    risks = [f"{each.where}: {each.text}" for each in risky_parts(config, str(path), name)]
    risks += [f"{name}: {text}" for text in _strange(config)]
    if risks:
        more = f", and {len(risks) - 1} more" if len(risks) > 1 else ""
        raise UnsafeFileError(
            f"Keras would run code of the model: {risks[0]}{more}", path=path,
            hint="leave --against out; Tensorferry itself runs nothing of it",
        )  # fmt: skip


def _strange(config: object) -> Iterator[str]:
    """Yield what makes a function of a name, and what is of another module than Keras."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        if not isinstance(value, dict):
            continue
        waiting += value.values()
        kind, module = value.get("class_name"), value.get("module")
        if isinstance(kind, str) and ("Lambda" in kind or kind == "function"):
            yield f"`{kind[:80]}` calls a function by name"
        if not isinstance(module, str):
            continue
        if module.partition(".")[0] not in ("keras", "tf_keras"):
            yield f"`{module[:80]}` is no module of Keras"
        elif isinstance(kind, str) and kind[:1].islower():  # classes of Keras begin otherwise
            yield f"`{module[:80]}.{kind[:80]}` is a function"
