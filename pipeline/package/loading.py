"""Python that loads a package's weights, for its card: run in the folder of the package."""

from __future__ import annotations

import json

from .records import Variant

__all__ = ["snippets"]

_TITLES = {"numpy": "NumPy", "torch": "PyTorch"}
# Types for which safetensors 0.8 looks in numpy itself, which has none of them.
_NOT_IN_NUMPY = (
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
_ONE_FILE = """\
{imports}from safetensors.{module} import load_file

weights = load_file({file})
"""
_SHARDS = """\
import json
from pathlib import Path

{imports}from safetensors.{module} import load_file

index = json.loads(Path({file}).read_text(encoding="utf-8"))
weights = {{}}
for file in sorted(set(index["weight_map"].values())):
    weights.update(load_file(file))
"""


def snippets(variant: Variant) -> list[dict[str, str]]:
    """Return rows with `library` and `code`, for the libraries that know all of the types."""
    dtypes = {each.spec.dtype.label for each in variant.tensors.values()}
    modules = ["torch"] if dtypes.intersection(_NOT_IN_NUMPY) else ["numpy", "torch"]
    # Importing it is what makes numpy know the name `bfloat16`, which safetensors asks for.
    imports = {"numpy": "import ml_dtypes  # for bfloat16\n"} if "bfloat16" in dtypes else {}
    template = _SHARDS if variant.files[-1].endswith(".json") else _ONE_FILE
    return [
        {
            "library": _TITLES[module],
            "code": template.format(
                module=module,
                file=json.dumps(variant.files[-1], ensure_ascii=False),
                imports=imports.get(module, ""),
            ),
        }
        for module in modules
    ]
