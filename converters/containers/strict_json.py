"""JSON from files that nobody vouches for: bounded before and after parsing, without surprises.

Specified by RFC 8259. Python's parser takes more than that and says less: a key that occurs twice
(the last one wins), NaN and Infinity, numbers that overflow to infinity, halves of surrogate
pairs, and it ends in a RecursionError where values are nested deeply. All of these are refused.

Nothing that is read is imported, opened or executed; a config is data.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from math import isinf
from typing import Any, NoReturn

from ..errors import CorruptFileError, UnsafeFileError
from ..sources import Source

__all__ = ["JSON_BYTES", "JSON_DEPTH", "parse_json", "parse_json_object", "read_json"]

JSON_BYTES = 64 << 20  # a config with a vocabulary in it reaches 30 MB
JSON_DEPTH = 256  # Keras needs 4 levels for each model inside a model
JSON_VALUES = 6_000_000  # an empty list is 3 bytes of text and 64 bytes of memory

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(
    text: bytes,
    *,
    max_bytes: int = JSON_BYTES,
    max_depth: int = JSON_DEPTH,
    bytes_in_names: bool = False,
) -> Any:
    """Return the value of a JSON text: dict, list, str, int, float, bool or None.

    Args:
        text: UTF-8, no byte order mark.
        max_bytes: longest text that is parsed.
        max_depth: most lists and objects inside one another.
        bytes_in_names: accept the half surrogate pairs that stand for bytes that are not UTF-8
            (PEP 383), as our own texts have them.

    Raises:
        CorruptFileError: it is no JSON, or ambiguous JSON.
        UnsafeFileError: it is larger, or nested deeper, than any honest file.
    """
    if len(text) > max_bytes:
        raise UnsafeFileError("JSON", expected=f"at most {max_bytes} bytes", got=len(text))
    values = sum(map(text.count, (b",", b"[", b"{")))
    if values > JSON_VALUES:
        raise UnsafeFileError("JSON", expected=f"at most {JSON_VALUES} values", got=values)
    try:
        value = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except RecursionError:  # the depth at which this comes differs between versions of Python
        raise _too_deep(max_depth) from None
    except ValueError as error:
        raise CorruptFileError(f"no JSON that is read here: {error}") from error
    _check_depth(value, max_depth)
    if _SURROGATE.search(text):
        _check_text(value, "surrogateescape" if bytes_in_names else "strict")
    return value


def parse_json_object(
    text: bytes, *, max_bytes: int = JSON_BYTES, max_depth: int = JSON_DEPTH
) -> dict[str, Any]:
    """Return the value of a JSON text that must be an object; raises as `parse_json` does."""
    value = parse_json(text, max_bytes=max_bytes, max_depth=max_depth)
    if not isinstance(value, dict):
        raise CorruptFileError("JSON", expected="an object", got=type(value).__name__)
    return value


def read_json(source: Source, *, max_bytes: int = JSON_BYTES, bytes_in_names: bool = False) -> Any:
    """Return the value of a whole source; its size is checked before it is read.

    Raises:
        CorruptFileError: as `parse_json`, with the path of the source.
    """
    try:
        if source.size > max_bytes:
            limit = f"at most {max_bytes} bytes"
            raise UnsafeFileError("JSON", expected=limit, got=source.size)
        text = source.read(0, source.size)
        return parse_json(text, max_bytes=max_bytes, bytes_in_names=bytes_in_names)
    except CorruptFileError as error:
        if error.path is None:
            error.path = str(source.path)
            error.args = (error.message,)
        raise


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"a key occurs twice in an object: {counts.most_common(1)[0][0][:80]!r}")
    return content


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"the number {text[:20]} is larger than any float64")
    return value


def _check_depth(value: object, max_depth: int) -> None:
    """Walk level by level, so that what reads the value afterwards may recurse."""
    level = [value] if isinstance(value, (dict, list)) else []
    depth = 0
    while level:
        depth += 1
        if depth > max_depth:
            raise _too_deep(max_depth)
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, (dict, list))
        ]


def _too_deep(max_depth: int) -> UnsafeFileError:
    return UnsafeFileError("JSON", expected=f"at most {max_depth} levels", got="more")


def _check_text(value: object, errors: str) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8", errors)
    except UnicodeEncodeError as error:
        raise CorruptFileError("no JSON that is read here: half a surrogate pair") from error
