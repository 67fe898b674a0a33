from __future__ import annotations

from tensorferry.converters.tensors import TensorDict
from tensorferry.pipeline.signatures import signature_lines


def _lines(**details: object) -> list[str]:
    return list(signature_lines(TensorDict("made", "made", {}, details=details)))


def test_a_signature_is_one_line_with_types_and_shapes() -> None:
    inputs = {
        "x": {"tensor": "x:0", "dtype": "float32", "shape": [-1, 3]},
        "any": {"tensor": "a:0", "dtype": "string", "shape": None},
    }
    outputs = {"y": {"tensor": "y:0", "dtype": "int64", "shape": []}}
    signatures = {"serve": {"inputs": inputs, "outputs": outputs, "method": ""}}
    assert _lines(signatures=signatures) == [
        "signature serve: x float32[?,3], any string -> y int64[]"
    ]


def test_a_signature_without_arguments_says_so() -> None:
    assert _lines(signatures={"a\n": {"inputs": {}, "outputs": {}}}) == [
        "signature a\\n: nothing -> nothing"
    ]


def test_formats_without_signatures_print_none() -> None:
    assert _lines() == []
    assert _lines(signatures="other") == []
