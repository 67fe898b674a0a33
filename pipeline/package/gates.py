"""Gates: what of a policy a package would not fulfil, found before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from ...converters.findings import Finding, Level
from ...converters.names import near
from ...converters.tensors import Role, TensorDict
from ..check import risks
from ..selection import found_by
from .gate_input import GateInput
from .policy import Bounds, Policy
from .value_gates import value_findings

__all__ = ["run_gates"]

# Counters are the optimizer's or the saver's: no model computes with them.
_TRAINING = {
    Role.SLOT: "is a slot of an optimizer",
    Role.OPTIMIZER: "is state of an optimizer",
    Role.COUNTER: "is a counter",
}


def run_gates(policy: Policy, given: GateInput) -> list[Finding]:
    """Return what the policy forbids, one finding for each tensor, all of them errors.

    What names, types and fields tell comes first; where it tells enough to refuse, values are
    read all the same, so that one run says everything.

    Args:
        policy: what to fulfil.
        given: what would be written, and from what.

    Raises:
        ConvertError: a tensor cannot be read; the error names it.
    """
    found = [*_of_fields(policy, given), *_of_source(policy, given)]
    for variant, tensors in given.variants.items():
        found += (_of(variant, each) for each in _of_tensors(policy, tensors))
    found += value_findings(policy, given)
    return list(dict.fromkeys(found))


def _finding(rule: str, text: str, tensor: str | None = None) -> Finding:
    return Finding(f"policy/{rule}", Level.ERROR, text, tensor)


def _of(variant: str, finding: Finding) -> Finding:
    """Return a finding with the variant that it is about, where there are several."""
    return replace(finding, where=f"variant `{variant}`") if variant else finding


# What the owner says


def _of_fields(policy: Policy, given: GateInput) -> Iterator[Finding]:
    if policy.licensed and not given.licence:
        yield _finding("license", "there is no licence: give it with --license")
    elif policy.licences and given.licence not in policy.licences:
        text = f"the licence is {given.licence}, allowed: {', '.join(policy.licences)}"
        yield _finding("license", text)
    metrics = given.fields.get("metrics", {})
    for name, bounds in policy.metrics.items():
        text = _metric(name, metrics.get(name), bounds)
        if text:
            yield _finding("metric", text)


def _metric(name: str, value: Any, bounds: Bounds) -> str:
    """Return what is wrong with a metric, empty if nothing is."""
    if value is None:
        return f"no `{name}` among the metrics: give it with --fields"
    if bounds.minimum is not None and value < bounds.minimum:
        return f"`{name}` is {value:g}, at least {bounds.minimum:g} is required"
    if bounds.maximum is not None and value > bounds.maximum:
        return f"`{name}` is {value:g}, at most {bounds.maximum:g} is allowed"
    return ""


# What the source holds


def _of_source(policy: Policy, given: GateInput) -> Iterator[Finding]:
    if not policy.no_risks:
        return
    for found in risks(given.path, given.source, given.reading):
        if found.level is not Level.NOTE:
            text = f"{found.rule}: {found.text}"
            yield Finding("policy/risk", Level.ERROR, text, found.tensor, found.path, found.where)


# What would be written


def _of_tensors(policy: Policy, tensors: TensorDict) -> Iterator[Finding]:
    yield from _sizes(policy, tensors)
    if policy.dtypes is not None:
        yield from _dtypes(policy, tensors)
    if policy.no_optimizer_state:
        yield from _training(tensors)
    yield from _names(policy, tensors)


def _sizes(policy: Policy, tensors: TensorDict) -> Iterator[Finding]:
    largest = max(tensors, key=lambda name: tensors[name].nbytes, default=None)
    nbytes = sum(each.nbytes for each in tensors.values())
    if policy.max_bytes is not None and nbytes > policy.max_bytes:
        text = (
            f"{nbytes:,} bytes in all, at most {policy.max_bytes:,} are allowed; "
            "this is the largest"
        )
        yield _finding("bytes", text, largest)
    elements = sum(each.spec.size for each in tensors.values())
    if policy.max_parameters is not None and elements > policy.max_parameters:
        widest = max(tensors, key=lambda name: tensors[name].spec.size)
        text = (
            f"{elements:,} parameters in all, at most {policy.max_parameters:,} are allowed; "
            "this is the largest"
        )
        yield _finding("parameters", text, widest)


def _dtypes(policy: Policy, tensors: TensorDict) -> Iterator[Finding]:
    allowed = policy.dtypes or ()
    listed = ", ".join(each.label for each in allowed)
    for name, tensor in tensors.items():
        if tensor.spec.dtype not in allowed:
            yield _finding("dtype", f"is {tensor.spec.dtype}, allowed: {listed}", name)


def _training(tensors: TensorDict) -> Iterator[Finding]:
    for name in tensors:
        role = tensors.origin(name).role
        if role in _TRAINING:
            yield _finding("optimizer-state", _TRAINING[role], name)


def _names(policy: Policy, tensors: TensorDict) -> Iterator[Finding]:
    texts = {name: name for name in tensors}
    for pattern in policy.required:
        if not found_by(texts, pattern):
            yield _finding("required-name", _missing(pattern, texts))
    for pattern in policy.forbidden:
        for name in _ordered(tensors, found_by(texts, pattern)):
            yield _finding("forbidden-name", f"its name matches `{pattern}`", name)


def _ordered(tensors: TensorDict, names: set[str]) -> Iterable[str]:
    return (name for name in tensors if name in names)


def _missing(pattern: str, names: Iterable[str]) -> str:
    hint = near(pattern, names)
    return f"no tensor is called `{pattern}`" + (f"; {hint}" if hint else "")
