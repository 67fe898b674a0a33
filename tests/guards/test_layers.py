"""Imports run one way (design: pipeline -> formats -> graphs -> containers -> the core)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = ("converters", "pipeline")

# Which floor a module of `converters/` itself is on; a new one has to be given its floor here.
FLOORS = {
    "errors": "base",
    "findings": "base",
    "notes": "base",
    "dtypes": "base",
    "checksums": "base",
    "threads": "base",
    "names": "base",
    "mounts": "base",
    "other_stores": "base",
    "profiles": "base",
    "read_ahead": "base",
    "scratch": "base",
    "sources": "base",
    "stores": "base",
    "tensors": "core",
    "casting": "core",
    "digests": "core",
    "record": "core",
    "ties": "core",
    "copier": "output",
    "uses": "base",
    "staging": "output",
    "output": "output",
    "registry": "registry",
    "foreign": "opening",
    "opening": "opening",
    "remote": "opening",
    "__init__": "front",
}
CORE = {"base", "core"}
MAY_IMPORT = {
    "base": {"base"},
    "core": CORE,
    "output": CORE | {"output"},
    "registry": CORE | {"output", "registry"},
    "containers": CORE | {"output", "registry", "containers"},
    "graphs": CORE | {"registry", "containers", "graphs"},
    # Formats never import each other; the registry finds them.
    "formats": CORE | {"output", "registry", "containers", "graphs"},
    "testing": CORE | {"output", "registry", "opening", "containers", "testing"},
    # Opening tries formats, then archives, then names what is none of ours.
    "opening": CORE | {"registry", "containers", "opening"},
    "front": CORE | {"registry", "opening"},
    "pipeline": CORE | {"output", "registry", "opening", "containers", "graphs", "pipeline"},
}


def sources() -> dict[str, Path]:
    """Return all modules by dotted name; a package by the name of its `__init__`."""
    paths = (path for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
    return {".".join(path.relative_to(REPOSITORY).with_suffix("").parts): path for path in paths}


MODULES = sources()


def floor(module: str) -> str:
    package, *rest = module.split(".")
    if package == "pipeline":
        return package
    if len(rest) > 1:
        return rest[0]
    return FLOORS.get(rest[0]) or pytest.fail(f"{module} needs a floor in FLOORS")


def imports(module: str, *, lazy: bool = True) -> Iterator[str]:
    """Yield the modules of ours that one imports; with `lazy`, those in functions too."""
    package = module.split(".")[:-1]
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += node.module.split(".") if node.module else []
            yield from (resolved([*base, alias.name]) for alias in node.names)


def resolved(parts: list[str]) -> str:
    """Return the module that `from parts[:-1] import parts[-1]` reads."""
    choices = (parts, parts[:-1], [*parts[:-1], "__init__"])
    return next(name for name in map(".".join, choices) if name in MODULES)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_of_ours_are_relative(module: str) -> None:
    absolute: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            absolute |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            absolute.add(node.module)
    roots = {name.split(".")[0] for name in absolute}
    assert not roots & {"tensorferry", *PACKAGES}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_run_one_way(module: str) -> None:
    allowed = MAY_IMPORT[floor(module)]
    wrong = {other for other in imports(module) if floor(other) not in allowed}
    assert not wrong, f"{module} is on floor {floor(module)!r} and may not import {wrong}"


def test_formats_never_import_each_other() -> None:
    formats = [module for module in MODULES if floor(module) == "formats"]
    assert formats
    for module in formats:
        assert not [other for other in imports(module) if floor(other) == "formats"]


def test_imports_at_the_top_make_no_circle() -> None:
    # Those in functions may: the registry asks `foreign` on the way to an error, and the entry
    # asks the parser, which needs the entry's verbs.
    graph = {module: set(imports(module, lazy=False)) for module in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_only_the_registry_imports_by_name() -> None:
    dynamic = [
        module
        for module, path in MODULES.items()
        if "import_module" in path.read_text() or "__import__" in path.read_text()
    ]
    assert dynamic == ["converters.registry"]
