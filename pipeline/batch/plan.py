"""Which model becomes which file: target names that mirror the source, and no two alike."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from string import Formatter

from ...converters.errors import UsageError
from ...converters.names import near
from ...converters.registry import Format, format_for_target, format_named
from ..convert import ConvertOptions
from .discovery import Found, discover
from .finding import Finder
from .jobs import BatchPlan, Job
from .manifest import Entry, read_manifest
from .places import inside, is_url, place_of, resolved

__all__ = ["NAME", "plan_jobs", "plan_list"]

NAME = "{parent}/{stem}{ending}"
# What a template may name: folder below the root, name without ending and with it, the number of
# the step, and the target format's ending with its dot.
FIELDS = ("parent", "stem", "name", "step", "ending")


def plan_jobs(
    root: Path, target: Path, options: ConvertOptions, *, name: str = NAME, latest: bool = False
) -> BatchPlan:
    """Find the models below a folder, and say what each becomes; opens none of them.

    Args:
        root: the folder of the models, or its URL (`place_of`).
        target: the folder to make or to add to, or its URL; what lies in it is no source.
        options: how to convert, the target format among it.
        name: template of the path of each target inside of `target`.
        latest: of models that differ in the step alone, take the one of the highest.

    Raises:
        UsageError: no format is given, or one that needs more than weights; the template is none;
            two models would become one file; source and target are the same folder.
        NotRecognisedError: there is no such folder.
        ConvertError: the store cannot be reached, or access is denied.
    """
    writer = _writer(options)
    _check_template(name)
    if resolved(root) == resolved(target):
        raise UsageError(
            "source and target are the same folder", path=root,
            hint="choose another target: what is written would be found as a source",
        )  # fmt: skip
    endpoint = options.read.endpoint_url
    without = {resolved(target)}
    found, skipped = discover(root, without=without, latest=latest, endpoint=endpoint)
    jobs = [
        Job(
            source=str(each.path),
            target=str(target / _path(each, root, writer, name)),
            nbytes=each.nbytes,
            fingerprint=each.fingerprint,
            flags=options,
        )
        for each in found
    ]
    _check_collisions(jobs)
    return BatchPlan(tuple(jobs), tuple(skipped), endpoint)


def plan_list(path: Path, target: Path, options: ConvertOptions, *, name: str = NAME) -> BatchPlan:
    """Say what each model of a list becomes; opens none of them.

    A model that is not there is a job too, and fails as one.

    Args:
        path: the list, or its URL; see `manifest.py`.
        target: the folder to make or to add to, or its URL.
        options: how to convert those of which the list says nothing else.
        name: template of the targets that the list does not name.

    Raises:
        UsageError: as `plan_jobs`; or a flag of one model is for the whole batch.
        CorruptFileError: it is no list of models.
        NotRecognisedError: it cannot be read.
        ConvertError: a store cannot be reached, or access is denied.
    """
    _check_template(name)
    entries = [*read_manifest(path, options)]
    find = Finder((each.source for each in entries), options.read.endpoint_url)
    usual = options.target_format
    jobs = [_listed(each, find(each.source), path, target, name, usual) for each in entries]
    _check_collisions(jobs)
    return BatchPlan(tuple(jobs), (), options.read.endpoint_url)


def _listed(
    entry: Entry, found: Found | None, path: Path, target: Path, name: str, usual: str | None
) -> Job:
    flags = replace(entry.flags, target_format=_format(entry, usual))
    writer = _writer(flags)
    found = found or Found(entry.source, entry.source.name, 0, "")
    if entry.target is None:
        own = _path(found, _root_of(found, path.parent), writer, name)
    else:
        own = _inside(inside(target, entry.target), str(entry.source))
    return Job(str(found.path), str(target / own), found.nbytes, found.fingerprint, flags)


def _root_of(found: Found, folder: Path) -> Path:
    """Return what the target of a listed model mirrors: the list's folder, or that of its store."""
    if is_url(found.path) == is_url(folder) and str(found.path).startswith(f"{folder}/"):
        return folder
    if not is_url(found.path):
        return folder
    scheme, _, rest = str(found.path).partition("://")
    return place_of(f"{scheme}://{rest.partition('/')[0]}")


def _format(entry: Entry, usual: str | None) -> str | None:
    """Return the format that a model's own flags name, or its target's ending, or the batch."""
    own = entry.flags.target_format
    if entry.target is None or own != usual:
        return own
    try:
        return format_for_target(Path(entry.target)).name
    except UsageError:
        if usual is None:
            raise
        return usual


def _writer(options: ConvertOptions) -> Format:
    if options.target_format is None:
        raise UsageError(
            "a batch needs the format to write", hint="name it with --to, such as --to safetensors"
        )
    writer = format_named(options.target_format)
    if writer.plan is None or not writer.extensions:
        raise UsageError(f"{writer.title} is only read, not written")
    missing = writer.needs - set(options.write.given())
    if missing:
        raise UsageError(
            f"{writer.title} needs --{min(missing).replace('_', '-')}",
            hint="which is another one for each model: convert them one by one",
        )
    return writer


# Names


def _check_template(name: str) -> None:
    try:
        fields = [field for _, field, _, _ in Formatter().parse(name) if field is not None]
    except ValueError as error:
        raise UsageError(f"`{name}` is no template: {error}", hint=f"as in {NAME!r}") from error
    for field in fields:
        if field not in FIELDS:
            raise UsageError(
                f"no field of a name is called `{field}`",
                hint=near(field, FIELDS) or f"there are {', '.join(FIELDS)}",
            )
    if not {"stem", "name"} & {*fields}:
        raise UsageError(f"`{name}` gives all models one name", hint=f"as in {NAME!r}")


def _path(found: Found, root: Path, writer: Format, name: str) -> Path:
    """Return where a model goes, inside of the target folder.

    Raises:
        UsageError: that would lie outside of it.
    """
    below = os.path.relpath(found.path, root)
    parent, own = os.path.split(below)
    stem = found.stem
    if below == os.curdir:  # the root itself is a model
        parent, own = "", resolved(root).name
        stem = own
    text = name.format(
        parent=parent or os.curdir,
        stem=stem,
        name=own,
        step="" if found.step is None else found.step,
        ending=writer.extensions[0],
    )
    return _inside(text, below)


def _inside(text: str, model: str) -> Path:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.name:
        what = f"`{text}` is no path inside of the target folder"
        raise UsageError(what, where=f"model `{model}`")
    return Path(path)


def _check_collisions(jobs: Iterable[Job]) -> None:
    taken: dict[str, str] = {}
    for job in jobs:
        other = taken.setdefault(job.target, job.source)
        if other != job.source:
            raise UsageError(
                "two models would become one file",
                path=job.target,
                expected=f"one of `{other}` and `{job.source}`",
                got="both",
                hint="tell them apart with --name, as in '{parent}/{name}{ending}'",
            )
