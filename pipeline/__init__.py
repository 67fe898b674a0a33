"""What one does with tensor dictionaries."""

from __future__ import annotations

from .convert import ConvertOptions, convert

__all__ = ["ConvertOptions", "convert"]
