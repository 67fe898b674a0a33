"""The HTML report: one file that opens offline, shows a model or a difference, and asks nobody."""

from .batch import batch_page
from .data import diff_data, inspect_data
from .page import diff_page, inspect_page, template_library, write_page

__all__ = [
    "batch_page", "diff_data", "diff_page", "inspect_data", "inspect_page", "template_library",
    "write_page",
]  # fmt: skip
