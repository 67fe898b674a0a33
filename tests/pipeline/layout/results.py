"""What came of each row of the zoo from each kind of file: the table in docs/formats/layouts.md.

Tests note their results here as they run, so that the table costs no second run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tensorferry.pipeline.recipe.applied import Applied

__all__ = ["FORMS", "PAGE", "Results", "without_numbers"]

PAGE = Path(__file__).resolve().parents[3] / "docs" / "formats" / "layouts.md"
# Name of the form in tests, and in the head of the table.
FORMS = {
    "keras": "`.keras`",
    "h5": "`.h5`",
    "export": "SavedModel",
    "tf_keras h5": "tf_keras `.h5`",
    "tf_keras saved": "tf_keras SavedModel",
    "module": "`tf.Module`",
    "meta": "TF1 `.meta`",
}
_PART = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
_NUMBER = re.compile(r"\b\de-\d+\b|(?<=, )0\b")


@dataclass
class Results:
    """Cells of the table, by row and form."""

    cells: dict[tuple[str, str], str] = field(default_factory=dict)

    def compare(self, row: str, form: str, laid: Applied, got: Any, expected: Any) -> None:
        """Compare two outputs, and note evidence and difference."""
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5)
        difference = float(np.max(np.abs(np.asarray(got) - np.asarray(expected))))
        evidence = sorted({use.evidence.value for use in laid.told.known.values()})
        self.cells[row, form] = f"{' and '.join(evidence)}, {difference:.0e}".replace("0e+00", "0")

    def refuse(self, row: str, form: str) -> None:
        """Note that nothing was decided."""
        self.cells[row, form] = "not decided"

    def table(self) -> str:
        """Return the table in Markdown."""
        rows = dict.fromkeys(row for row, _ in self.cells)
        lines = [("layer", *FORMS.values()), ("---",) * (len(FORMS) + 1)]
        lines += [(row, *(self.cells.get((row, form), "") for form in FORMS)) for row in rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def page(self) -> str:
        """Return the page with the table as it should be."""
        text = PAGE.read_text(encoding="utf-8")
        return _PART.sub(lambda part: f"{part[1]}\n{self.table()}\n{part[2]}", text)


def without_numbers(text: str) -> str:
    """Return a page without what differs from machine to machine."""
    return _NUMBER.sub("small", text)
