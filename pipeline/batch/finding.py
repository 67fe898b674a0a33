"""The models that a list names: what belongs to each, without looking through whole folders."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from ...converters.errors import NotRecognisedError
from .discovery import Found, found_at, found_of
from .places import is_url
from .trees import REQUESTS_AT_ONCE, StoreTree, Tree

__all__ = ["Finder"]


class Finder:
    """Finds the one model that a path stands for; folders of stores are listed once.

    Args:
        sources: the paths that are going to be asked for.
        endpoint: where the object store is, if not where its cloud is.
    """

    def __init__(self, sources: Iterable[Path], endpoint: str | None) -> None:
        self._endpoint = endpoint
        self._stores: dict[str, StoreTree | None] = {}  # None for those without listings
        folders = {each.parent for each in sources if is_url(each)}
        for folder in folders:
            bucket = _bucket(folder)
            if bucket not in self._stores:
                self._stores[bucket] = StoreTree(folder, endpoint)
        with ThreadPoolExecutor(REQUESTS_AT_ONCE, "listings") as threads:
            for folder, listed in zip(folders, threads.map(self._load, folders), strict=True):
                if not listed:
                    self._stores[_bucket(folder)] = None

    def __call__(self, path: Path) -> Found | None:
        """Return the model, None if there is none."""
        with suppress(NotRecognisedError):
            tree = self._stores[_bucket(path)] if is_url(path) else Tree()
            return found_at(path, tree) if tree else self._implied(path)
        return None

    def _load(self, folder: Path) -> bool:
        from ...converters.stores import NoListingError

        tree = self._stores[_bucket(folder)]
        try:
            if tree:
                tree.load(folder, below=False)
        except NoListingError:
            return False
        except NotRecognisedError:
            return True  # it comes up again when a model is asked for
        return True

    def _implied(self, path: Path) -> Found | None:
        from ...converters.remote import objects_at

        objects = objects_at(path, self._endpoint)
        files = {each.key: (each.size, each.mark) for each in objects}
        return found_of(path, files) if files else None


def _bucket(path: Path) -> str:
    scheme, _, rest = str(path).partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
