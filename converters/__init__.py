"""Readers and writers of model weights around one lazy tensor dictionary."""

from __future__ import annotations

from .registry import ReadOptions, WriteOptions, open_tensors

__all__ = ["ReadOptions", "WriteOptions", "open_tensors"]
