"""The table of evidence and result is what the tests before this one have found."""

from __future__ import annotations

import os

import pytest

from .results import FORMS, PAGE, Results, without_numbers
from .zoo import ROWS

pytestmark = pytest.mark.oracle


def test_the_table_is_up_to_date(results: Results) -> None:
    keras = [(row.name, form) for row in ROWS for form in list(FORMS)[:3]]
    if not results.cells.keys() >= {*keras, ("a layer of one's own", "keras"), ("dense", "meta")}:
        pytest.skip("the rest of the zoo was not run")
    fresh = results.page()
    if os.environ.get("TENSORFERRY_ACCEPT"):
        PAGE.write_text(fresh, encoding="utf-8")
    shown = PAGE.read_text(encoding="utf-8")
    assert without_numbers(shown) == without_numbers(fresh), "TENSORFERRY_ACCEPT=1 writes it"
