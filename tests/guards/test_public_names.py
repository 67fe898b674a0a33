"""Every module says what is public, and what is public is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PATHS = [path for top in ("converters", "pipeline") for path in (REPOSITORY / top).rglob("*.py")]
NAMES = sorted(
    ".".join(("tensorferry", *path.relative_to(REPOSITORY).with_suffix("").parts)) for path in PATHS
)


def is_bare(name: str) -> bool:
    """Tell whether a module, such as the `__init__` of a package, holds only a docstring."""
    path = REPOSITORY.joinpath(*name.split(".")[1:]).with_suffix(".py")
    return len(ast.parse(path.read_text(encoding="utf-8")).body) <= 1


@pytest.fixture(params=[name for name in NAMES if not is_bare(name)])
def module(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param.removesuffix(".__init__"))


def order(name: str) -> tuple[int, str]:
    """Return the key by which ruff sorts `__all__`: constants, classes, functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


def test_all_is_there_sorted_and_true(module: ModuleType) -> None:
    names = module.__all__
    assert list(names) == sorted(names, key=order)
    assert len(set(names)) == len(names)
    assert [name for name in names if not hasattr(module, name)] == []


def test_every_module_has_a_docstring(module: ModuleType) -> None:
    assert module.__doc__


def test_what_is_public_has_a_docstring(module: ModuleType) -> None:
    public = [getattr(module, name) for name in module.__all__]
    documented = [each for each in public if inspect.isclass(each) or inspect.isfunction(each)]
    for each in documented:
        assert inspect.getdoc(each), each
        if inspect.isclass(each) and each.__module__ == module.__name__:
            assert not undocumented_methods(each), each


def undocumented_methods(owner: type) -> list[str]:
    """Return the public methods and properties without a docstring, inherited ones aside.

    Tests of a contract are named by the sentence that a docstring would repeat.
    """
    return [
        name
        for name, each in vars(owner).items()
        if not name.startswith(("_", "test_"))
        and (inspect.isfunction(each) or isinstance(each, (property, classmethod)))
        and not inspect.getdoc(each)
    ]


def test_bare_modules_still_say_what_they_are_for() -> None:
    for name in filter(is_bare, NAMES):
        assert importlib.import_module(name.removesuffix(".__init__")).__doc__, name
