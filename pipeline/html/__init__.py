"""The HTML report: one file that opens offline, shows a model or a difference, and asks nobody."""

from .batch import batch_page
from .data import diff_data, inspect_data
from .page import diff_page, inspect_page, installed, write_page

__all__ = [
    "batch_page", "diff_data", "diff_page", "inspect_data", "inspect_page", "installed",
    "write_page",
]  # fmt: skip
