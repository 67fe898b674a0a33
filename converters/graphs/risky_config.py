"""Parts of a Keras config that are dangerous to load with Keras. Read as data, never made.

A config nests objects as {"class_name", "config", "module", "registered_name"}, and Keras makes
them: it looks classes up, imports modules, and for a Lambda layer turns stored bytecode into a
function. Its safe mode refuses much of that, not in every release and not for every kind of file:
releases before 3.11.3 ignored it for `.h5`, and what it let through became CVE-2024-3660,
CVE-2025-1550, CVE-2025-8747, CVE-2025-12058 and others.

Specified by keras/src/saving/serialization_lib.py and keras/src/legacy/saving (v3.15.0).
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import printable
from ..findings import Finding, Level

__all__ = ["risky_parts"]

_LIBRARIES = frozenset({
    "keras", "tf_keras", "tensorflow", "keras_hub", "keras_nlp", "keras_cv", "keras_core",
    "keras_tuner", "keras_rs",
})  # fmt: skip
# Serialised as `{"class_name": "function", "module": "builtins"}`: any function of the user's own.
_FUNCTIONS = frozenset({"function", "builtin_function_or_method", "type", "class"})
_BYTECODE = "__lambda__"
# Functions of Keras and of Python that no layer needs, and attacks were built on.
_GADGETS = frozenset({
    "get_file", "extract_archive", "load_model", "load_weights", "save_model", "clone_model",
    "enable_unsafe_deserialization", "deserialize_keras_object", "func_load", "system", "popen",
    "run", "check_output", "load_img", "load_data", "model_from_json",
})  # fmt: skip
_VOCABULARIES = frozenset({
    "TextVectorization", "StringLookup", "IntegerLookup", "IndexLookup",
    "StaticHashTable", "StaticVocabularyTable",
})  # fmt: skip
_FILE_KEYS = ("vocabulary", "vocabulary_file", "filename", "idf_weights")
# Symbols of TensorFlow's API that a TFOpLambda may name.
_RISKY_SYMBOLS = (
    "io.read_file", "io.write_file", "io.matching_files", "io.gfile", "py_function",
    "numpy_function", "py_func", "raw_ops.ReadFile", "raw_ops.WriteFile", "raw_ops.PyFunc",
    "raw_ops.EagerPyFunc", "load_op_library", "load_library", "saved_model.load", "data.",
)  # fmt: skip
_SHOWN = 120  # characters of what a config says


def risky_parts(config: object, path: str, where: str) -> Iterator[Finding]:
    """Yield a finding for each part of a config that is dangerous to load, in their order.

    Args:
        config: what a JSON text holds.
        path: the file, for the findings.
        where: what of the file the config is.
    """
    custom: dict[str, str] = {}
    waiting: list[tuple[object, str]] = [(config, "")]
    while waiting:
        value, owner = waiting.pop()
        if isinstance(value, list):
            waiting += [(each, owner) for each in reversed(value)]
            continue
        if not isinstance(value, dict):
            continue
        owner = _name(value) or owner
        place = f"{where}: layer `{owner}`" if owner else where
        for rule, level, text in _risks(value):
            yield Finding(rule, level, text, path=path, where=printable(place))
        name = _custom(value)
        if name:
            custom.setdefault(name, owner)
        waiting += [(each, owner) for each in reversed(list(value.values()))]
    for name, owner in custom.items():
        text = f"`{name}` is none of Keras's own: loading it needs, and runs, code of somebody's"
        place = f"{where}: layer `{owner}`" if owner else where
        yield Finding("security/custom-object", Level.NOTE, text, path=path, where=place)


_Risk = tuple[str, Level, str]


def _risks(value: Mapping[str, Any]) -> Iterator[_Risk]:
    kind, config = value.get("class_name"), value.get("config")
    if not isinstance(kind, str):
        return
    inner: Mapping[str, Any] = config if isinstance(config, dict) else {}
    yield from _code(kind, inner)
    yield from _references(kind, value, config)
    yield from _files(kind, inner)


def _code(kind: str, config: Mapping[str, Any]) -> Iterator[_Risk]:
    if kind == _BYTECODE:
        text = "Python bytecode, which runs when the model is loaded"
        yield "security/bytecode", Level.ERROR, text
    elif kind == "Lambda":
        function = config.get("function")
        code = isinstance(function, dict) and function.get("class_name") == _BYTECODE
        if isinstance(function, list) or code:
            text = "a Lambda layer, with Python bytecode that runs when the model is loaded"
            yield "security/lambda", Level.ERROR, text
        else:
            text = f"a Lambda layer, which calls a Python function by name: {_said(function)}"
            yield "security/lambda", Level.WARNING, text
    elif kind == "TorchModuleWrapper":
        text = "a TorchModuleWrapper, whose config is a pickle that runs when it is loaded"
        yield "security/bytecode", Level.ERROR, text
    elif kind in ("TFOpLambda", "SlicingOpLambda"):
        symbol = str(config.get("function"))
        if symbol.startswith(_RISKY_SYMBOLS):
            text = f"a {kind}, which calls {_said(symbol)} of TensorFlow"
            yield "security/unsafe-reference", Level.ERROR, text


def _references(kind: str, value: Mapping[str, Any], config: object) -> Iterator[_Risk]:
    """Yield what a part names that Keras would import or call."""
    module = value.get("module")
    called = config if kind in _FUNCTIONS and isinstance(config, str) else kind
    if called in _GADGETS or (module == "builtins" and hasattr(builtins, called)):
        text = f"names the function {_said(called)}, which no layer needs"
        yield "security/unsafe-reference", Level.ERROR, text
    elif isinstance(module, str):
        top = module.partition(".")[0]
        if top in sys.stdlib_module_names and not (top == "builtins" and kind in _FUNCTIONS):
            text = f"names {_said(f'{module}.{called}')} of Python's own library"
            yield "security/unsafe-reference", Level.ERROR, text


def _files(kind: str, config: Mapping[str, Any]) -> Iterator[_Risk]:
    if kind == "TFSMLayer":
        text = f"a TFSMLayer, which loads and runs another model: {_said(config.get('filepath'))}"
        yield "security/external-file", Level.ERROR, text
    if kind in _VOCABULARIES:
        for key in _FILE_KEYS:
            place = config.get(key)
            if isinstance(place, str) and place:
                text = f"`{key}` is a path, which is read when the model is loaded: {_said(place)}"
                yield "security/external-file", Level.WARNING, text


def _custom(value: Mapping[str, Any]) -> str | None:
    """Return the name of a class or function that is not of Keras, None of all else."""
    kind, module, registered = (value.get(key) for key in ("class_name", "module", _REGISTERED))
    if not isinstance(kind, str) or "config" not in value or kind.startswith("__"):
        return None
    config = value.get("config")
    if kind in _FUNCTIONS:
        kind = config if isinstance(config, str) else kind
        if kind in _GADGETS or hasattr(builtins, kind):
            return None
    if isinstance(registered, str) and ">" in registered:
        return printable(registered[:_SHOWN])
    if kind != value.get("class_name") and module == "builtins":
        return printable(kind[:_SHOWN])
    if isinstance(module, str):
        top = module.partition(".")[0]
        if top in _LIBRARIES or top in sys.stdlib_module_names:
            return None
        return printable(f"{module}.{kind}"[:_SHOWN])
    if "module" in value:  # null: of no module that could be imported
        return printable(kind[:_SHOWN])
    return None


_REGISTERED = "registered_name"


def _name(value: Mapping[str, Any]) -> str:
    """Return the name of a layer, empty where a part has none."""
    config = value.get("config")
    names = (config.get("name") if isinstance(config, dict) else None, value.get("name"))
    found = next((name for name in names if isinstance(name, str) and "class_name" in value), "")
    return found[:_SHOWN]


def _said(value: object) -> str:
    return f"`{printable(str(value)[:_SHOWN])}`"
