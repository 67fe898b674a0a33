"""Parameters: values that a recipe's texts name, given by hand or found in the input."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ...converters.errors import UsageError
from ...converters.names import near
from ...converters.tensors import TensorDict
from .expressions import Value
from .model import Parameter
from .nodes import Node, shown
from .rules import pattern_of
from .steps import template_of
from .templates import Template, parse_template

__all__ = ["Scope", "check_circles", "parameter_of", "with_settings"]

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_BOOLS = {"true": True, "false": False}


def parameter_of(node: Node, names: Mapping[str, Any]) -> Parameter:
    """Check a parameter.

    Args:
        node: its value.
        names: of all parameters.

    Raises:
        UsageError: it is none.
    """
    if not _NAME.fullmatch(node.key):
        node.fail("no name of a parameter", expected="letters, digits and `_`", got=shown(node.key))
    if not isinstance(node.value, dict):
        node.typed(str, int, float, bool)
        text = template_of(node) if node.value and isinstance(node.value, str) else None
        parameter = Parameter(node.place, "value", node.value, text)
    elif "dim" in node.value:
        parameter = _dimension(node)
    else:
        parameter = _count(node, names)
    _check_names(node, parameter, names)
    return parameter


def _dimension(node: Node) -> Parameter:
    items = node.table(("dim",))["dim"].items()
    if len(items) != 2:
        node.at("dim").wrong('name and axis of a tensor, such as ["embeddings", 1]')
    return Parameter(node.place, "dim", node.value, template_of(items[0]), axis=items[1].typed(int))


def _count(node: Node, names: Mapping[str, Any]) -> Parameter:
    found = node.table(("count", "dim"))
    if "count" not in found:
        node.wrong("a value, { count = PATTERN } or { dim = [NAME, AXIS] }")
    pattern = pattern_of(found["count"], [name for name in names if name != node.key])
    if len(pattern.captures) != 1:
        found["count"].wrong("a pattern with one capture, of which the values are counted")
    return Parameter(node.place, "count", node.value, pattern=pattern)


def _check_names(node: Node, parameter: Parameter, names: Mapping[str, Any]) -> None:
    for name in sorted(_needs(parameter)):
        if name not in names:
            node.fail(f"`{{{name}}}` is no parameter", hint=near(name, names))


def _needs(parameter: Parameter) -> frozenset[str]:
    texts = parameter.text.names if parameter.text else frozenset()
    return texts | (parameter.pattern.parameters if parameter.pattern else frozenset())


def check_circles(parameters: Mapping[str, Parameter]) -> None:
    """Check that no parameter needs itself.

    Raises:
        UsageError: one does.
    """
    done: set[str] = set()

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name in above:
            raise UsageError(
                f"needs itself: {' -> '.join((*above[above.index(name) :], name))}",
                path=parameters[name].place.path,
                where=f"parameters: {name}",
            )
        if name not in done:
            for each in sorted(_needs(parameters[name])):
                visit(each, (*above, name))
            done.add(name)

    for name in parameters:
        visit(name, ())


# Given by hand


def with_settings(
    parameters: Mapping[str, Parameter], settings: Mapping[str, str], name: str
) -> dict[str, Parameter]:
    """Return parameters with the values that the user gave.

    Args:
        parameters: as the recipe has them.
        settings: texts by name.
        name: of the recipe.

    Raises:
        UsageError: there is no such parameter, or its type is another.
    """
    for key in settings:
        if key not in parameters:
            known = f"there are {', '.join(parameters)}" if parameters else "there are none"
            raise UsageError(
                f"no parameter is called `{key}`", path=name, hint=near(key, parameters) or known
            )
    return {
        key: _set(key, each, settings[key]) if key in settings else each
        for key, each in parameters.items()
    }


def _set(name: str, parameter: Parameter, text: str) -> Parameter:
    value = _value(name, parameter, text)
    template = None
    if isinstance(value, str):
        value = value.replace("{", "{{").replace("}", "}}")  # what the user gave is no template
        template = parse_template(value) if value else None
    return replace(parameter, kind="value", value=value, text=template, pattern=None)


def _value(name: str, parameter: Parameter, text: str) -> Value:
    plain = parameter.value if parameter.kind == "value" else 0
    if isinstance(plain, str):
        return int(text) if _computes(parameter.text) and text.isdigit() else text
    kind = type(plain)
    try:
        return _BOOLS[text] if kind is bool else kind(text)
    except (KeyError, ValueError) as error:
        wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
        raise UsageError(f"--set {name}", expected=wanted, got=shown(text)) from error


def _computes(text: Template | None) -> bool:
    """Tell whether a text is arithmetic alone."""
    holes = [part for part in text.parts if not isinstance(part, str)] if text else []
    return len(holes) == 1 and not _NAME.fullmatch(holes[0].expression.text)


# Found


class Scope:
    """The values of a recipe's parameters; found when they are asked for.

    Args:
        parameters: of a recipe.
        tensors: its input.
    """

    def __init__(self, parameters: Mapping[str, Parameter], tensors: TensorDict) -> None:
        self._parameters = parameters
        self._tensors = tensors
        self._found: dict[str, Value] = {}

    def __call__(self, name: str) -> Value:
        """Return the value of a parameter.

        Raises:
            UsageError: it cannot be found.
        """
        if name not in self._found:
            parameter = self._parameters[name]
            try:
                self._found[name] = self._value(parameter)
            except ValueError as error:
                raise _failed(parameter, name, str(error)) from error
        return self._found[name]

    def within(self, captures: Mapping[str, str]) -> Callable[[str], Value]:
        """Return what gives captures, and parameters beside them."""
        return lambda name: captures[name] if name in captures else self(name)

    def _value(self, parameter: Parameter) -> Value:
        if parameter.kind == "count" and parameter.pattern:
            match = parameter.pattern.compiled(self)
            found = {tuple(each.values()) for each in map(match, self._tensors) if each}
            if not found:
                raise ValueError(f"no tensor matches `{parameter.pattern.text}`")
            return len(found)
        if parameter.kind == "dim" and parameter.text:
            return self._length(parameter.text.fill(self), parameter.axis)
        value: Value = parameter.text.value(self) if parameter.text else parameter.value
        return value

    def _length(self, name: str, axis: int) -> int:
        if name not in self._tensors:
            hint = near(name, self._tensors)
            raise ValueError(f"no tensor is called `{name}`{f'; {hint}' if hint else ''}")
        shape = self._tensors[name].spec.shape
        if not -len(shape) <= axis < len(shape):
            raise ValueError(f"`{name}` has no axis {axis}: its shape is {shape}")
        return shape[axis]


def _failed(parameter: Parameter, name: str, what: str) -> UsageError:
    hint = f"give it by hand: --set {name}=…"
    return UsageError(what, path=parameter.place.path, where=f"parameters: {name}", hint=hint)
