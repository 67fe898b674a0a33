"""Readers and writers of model weights around one lazy tensor dictionary."""

from __future__ import annotations

from .opening import open_tensors
from .registry import ReadOptions, WriteOptions

__all__ = ["ReadOptions", "WriteOptions", "open_tensors"]
