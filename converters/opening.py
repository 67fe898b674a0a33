"""Opening whatever a user points at: a format's file or folder, or an archive that holds one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from .errors import ConvertError, NotRecognisedError, UsageError
from .names import near
from .registry import Format, Location, ReadOptions, all_formats, claims, format_named
from .tensors import TensorDict

__all__ = ["located", "open_tensors"]


def open_tensors(
    path: str | os.PathLike[str],
    options: ReadOptions | None = None,
    *,
    format: str | None = None,
) -> TensorDict:
    """Open whatever lies at `path` as a dictionary of lazy tensors; reads no tensor data.

    Args:
        path: a file, a folder, a checkpoint prefix, or an archive of one, or the URL of such; of an
            archive that holds several models one is chosen with `archive.zip::path/inside`.
        options: how to read it.
        format: name of the format, to spare or overrule the sniffing.

    Returns:
        The tensors; closing it closes the files below.

    Raises:
        NotRecognisedError: nothing is there, or no format claims it.
        UsageError: several formats claim it.
        CorruptFileError: it is damaged.
    """
    options = options or ReadOptions()
    if "://" in os.fspath(path):
        return _open_remote(os.fspath(path), options, format)
    location, inner = Location(Path(path)), ""
    if "::" in os.fspath(path):
        from .containers.archives import split_inner

        archive = split_inner(os.fspath(path))
        if archive:
            location, inner = Location(Path(archive[0])), archive[1]
    chosen = None if inner else _chosen(location, format)
    if chosen:
        return chosen.open(location, options)
    return _open_archive(location, options, format, inner)


def located(
    path: str | os.PathLike[str], tensors: TensorDict
) -> tuple[Location, Callable[[str], str]]:
    """Return where a model lies that was opened, also one in an archive or in an object store.

    Args:
        path: what was opened.
        tensors: what came of it; not closed yet.

    Returns:
        The place, and what turns paths in a text about it into those that a user knows.
    """
    from .containers.archives import unpacked

    place, seen = unpacked(tensors) or (None, str)
    if "://" in os.fspath(path):
        from .remote import mirrored

        local, seen = mirrored(tensors, seen)
        place = place or local
    return Location(place or Path(path)), seen


def _open_remote(url: str, options: ReadOptions, format: str | None) -> TensorDict:
    from .remote import Mirror, dressed, open_place, seen_outside

    outer, separator, inner = url.partition("::")
    mirror = Mirror(open_place(outer, options.endpoint_url))
    try:
        local = f"{mirror.local}{separator}{inner}"
        return dressed(mirror, open_tensors(local, options, format=format))
    except ConvertError as error:
        mirror.close()
        raise seen_outside(mirror, error) from None
    except BaseException:
        mirror.close()
        raise


def _chosen(location: Location, format: str | None) -> Format | None:
    """Return the format to open a location with; None if it may be an archive.

    Raises:
        UsageError: several formats claim it, or none has this name.
    """
    if format:
        named = format_named(format)
        return named if named.sniff(location) else None
    found = claims(location)
    if len(found) > 1:
        names = " or ".join(f"`{each.name}`" for each in found)
        raise UsageError(f"may be {names}", path=location.path, hint="name the format with --from")
    return found[0] if found else None


def _open_archive(
    location: Location, options: ReadOptions, format: str | None, inner: str
) -> TensorDict:
    """Open the model in an archive, or whatever `format` says it is."""
    from .containers.archives import Opener, open_archive

    def wanted(place: Location) -> list[Format]:
        found = claims(place)
        return [each for each in found if each.name == format] if format else found

    def opened(place: Location) -> TensorDict:
        chosen = format_named(format) if format else _chosen(place, None)
        if chosen is None:
            raise _not_recognised(place)
        return chosen.open(place, options)

    found = open_archive(location, Opener(wanted, opened), inner)
    if found is None and inner:
        raise UsageError("is no archive, and has no path inside", path=location.path)
    return opened(location) if found is None else found


def _not_recognised(location: Location) -> NotRecognisedError:
    from .foreign import name_foreign

    path = location.path
    if not path.exists():
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        return NotRecognisedError("does not exist", path=path, hint=near(path.name, beside))
    foreign = name_foreign(location)
    if foreign:
        what, hint = foreign
        return NotRecognisedError(what, path=path, hint=hint)
    what = "a folder with no model in it" if path.is_dir() else "no format that is read here"
    readers = ", ".join(each.title for each in all_formats())
    return NotRecognisedError(what, path=path, hint=f"what is read: {readers}")
