"""Arithmetic on whole numbers: `n + 1`, `hidden // heads`; no names but those that are given."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from operator import add, floordiv, mod, mul, sub
from typing import TypeAlias

__all__ = ["Expression", "Value", "parse_expression", "whole"]

Value: TypeAlias = "str | int | float | bool"

MAX_CHARACTERS = 200
LARGEST = 1 << 63
_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.FloorDiv: floordiv, ast.Mod: mod,
}  # fmt: skip


class Expression:
    """What stands between braces, before the first `|`.

    Attributes:
        text: as it was written.
        names: what it needs.
    """

    def __init__(self, text: str, tree: ast.expr) -> None:
        self.text = text
        self._tree = tree
        self.names = frozenset(each.id for each in ast.walk(tree) if isinstance(each, ast.Name))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def value(self, lookup: Callable[[str], Value]) -> Value:
        """Return what it comes to.

        Args:
            lookup: gives the value of a name.

        Raises:
            ValueError: it computes with what is no whole number, divides by zero, or gets too
                large.
        """
        if isinstance(self._tree, ast.Name):
            return lookup(self._tree.id)
        return self._number(self._tree, lookup)

    def _number(self, tree: ast.expr, lookup: Callable[[str], Value]) -> int:
        if isinstance(tree, ast.Constant):
            return int(tree.value)  # type: ignore[arg-type]  # checked when it was parsed
        if isinstance(tree, ast.Name):
            return whole(lookup(tree.id), tree.id)
        if isinstance(tree, ast.UnaryOp):
            return -self._number(tree.operand, lookup)
        assert isinstance(tree, ast.BinOp)  # nothing else is parsed
        left, right = self._number(tree.left, lookup), self._number(tree.right, lookup)
        try:
            found = _OPERATORS[type(tree.op)](left, right)
        except ZeroDivisionError as error:
            raise ValueError(f"`{self.text}` divides by zero") from error
        if abs(found) >= LARGEST:
            raise ValueError(f"`{self.text}` is too large")
        return found


def whole(value: Value, name: str) -> int:
    """Return a value as a whole number; texts of digits are one.

    Raises:
        ValueError: it is none.
    """
    if type(value) is int:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 19:
        return int(value)
    raise ValueError(f"`{name}` is no whole number: {value!r:.40}")


def parse_expression(text: str) -> Expression:
    """Parse a name, a whole number, or arithmetic on both.

    Raises:
        ValueError: it is none of these.
    """
    wrong = f"`{text[:40]}` is no name, whole number or arithmetic on them (+ - * // %)"
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"{wrong}: longer than {MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(wrong) from error
    if not _allowed(tree):
        raise ValueError(wrong)
    return Expression(text.strip(), tree)


def _allowed(tree: ast.expr) -> bool:
    if isinstance(tree, ast.Constant):
        return type(tree.value) is int and tree.value < LARGEST
    if isinstance(tree, ast.UnaryOp):
        return isinstance(tree.op, ast.USub) and _allowed(tree.operand)
    if isinstance(tree, ast.BinOp):
        return type(tree.op) in _OPERATORS and _allowed(tree.left) and _allowed(tree.right)
    return isinstance(tree, ast.Name)
