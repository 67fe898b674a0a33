"""The one orchestration of a package: gates, weights, records, manifest, signature, all or nothing.

Expected of the modules beside this one (their owners may add parameters with defaults):

    policy.py      read_policy(path) -> Policy
                   run_gates(policy, GateInput) -> list[Finding]; nothing is written yet. GateInput
                   (gate_input.py) has the opened source, the tensors of every variant, the fields,
                   the threads and a listener. Any Finding above NOTE refuses the package.
                   Policy.json() -> dict, for `PackageFacts.policy`
    card.py        read_fields(path) -> dict;  card_text(facts, template: Path | None) -> str
    provenance.py  provenance_text(facts) -> str
    bom.py         bom_text(facts) -> str
    kitfile.py     kitfile_text(facts) -> str
    signing.py     Signer: how to sign; Trust: what to accept.
                   sign_package(folder, digests, signer) writes `folder / SIGNATURE`; `digests` has
                   the SHA-256 of all other files by path, so that none is read again.
                   verify_signature(signature: bytes, digests, trust) -> str: who signed; raises
                   VerificationError. From bytes and digests, so that tar and OCI need no unpacking.
    oci.py         write_oci(folder, target, facts) -> None: makes an OCI layout in the new folder
                   `target`; may move the files of `folder`, which is thrown away afterwards.

In `facts`, `files` grows as files are made: the card sees weights, config and licence, the BOM the
card too, then come Kitfile and provenance; the manifest lists them all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ...converters.errors import UsageError
from ...converters.findings import Finding, Level
from ...converters.notes import Kind, Note
from ...converters.registry import format_named
from ...converters.staging import Staging
from ...converters.tensors import TensorDict
from ..convert import Listener, chosen
from .flags import package_flags
from .gate_input import GateInput
from .licence import FoundLicence
from .manifest import manifest_text, package_digest, plain
from .options import PackageOptions
from .records import (
    BOM,
    CARD,
    KITFILE,
    MANIFEST,
    PROVENANCE,
    FileKind,
    LeftOut,
    PackageFacts,
)  # fmt: skip
from .side_files import SideFiles, attached, licence_of
from .source_files import SourceHashes, files_of_source, files_of_updates, source_facts
from .staged import is_tar, made_in, planned_only, staged
from .weights import PlannedVariant, WrittenVariant, plan_variants, write_variant

__all__ = ["Given", "PackageReport", "build_package"]

EPOCH = "SOURCE_DATE_EPOCH"  # reproducible-builds.org/specs/source-date-epoch, version 1.1
_TOLD = frozenset({Kind.SOURCE, Kind.TARGET})  # remarks, and no change of a tensor


class Given(NamedTuple):
    """What the files say that flags name; a rebuild has it from the manifest.

    Attributes:
        fields: what the owner says.
        policy: as JSON values; the gates are not run again.
        created: seconds since 1970; None to find out.
        names: of the model and of its source; None to go by the path.
        flags: how it is made, as the manifest has it; None to go by the options.
    """

    fields: Mapping[str, Any]
    policy: Mapping[str, Any]
    created: int | None
    names: tuple[str, str] | None = None
    flags: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PackageReport:
    """The account of one package.

    Attributes:
        target: what was written.
        planned: the variants.
        findings: what gates refused, or only remarked on.
        facts: what the package says of itself; None where nothing was written.
        digest: SHA-256 of the manifest; empty where nothing was written.
        left_out: number and bytes of the tensors that were left out, by role.
        notes: everything worth knowing, in the order in which it came up.
        files: number of files that were written, the manifest too and the signature not.
        nbytes: bytes of these.
        seconds: wall time.
    """

    target: Path
    planned: tuple[PlannedVariant, ...]
    findings: tuple[Finding, ...] = ()
    facts: PackageFacts | None = None
    digest: str = ""
    left_out: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    files: int = 0
    nbytes: int = 0
    seconds: float = 0.0

    @property
    def refused(self) -> bool:
        """Whether a gate has refused the package; nothing was written then."""
        return any(each.level is not Level.NOTE for each in self.findings)

    def json(self) -> dict[str, Any]:
        """Return the summary as JSON values."""
        facts = self.facts
        found: dict[str, Any] = {
            "target": str(self.target),
            "written": facts is not None,
            "digest": self.digest or None,
            "findings": [each.json() for each in self.findings],
            "variants": [
                {
                    "name": each.name,
                    "tensors": len(each.tensors),
                    "bytes": each.plan.size,
                    "files": [file.path.name for file in each.plan.files],
                }
                for each in self.planned
            ],
            "seconds": round(self.seconds, 3),
        }
        if facts:
            found["name"], found["license"] = facts.name, facts.licence
            found["counts"] = facts.counts
            found["files"] = {each.path: each.size for each in facts.files}
            found["model_digests"] = {each.name: each.digest for each in facts.variants}
        return found


def build_package(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: PackageOptions | None = None,
    listener: Listener | None = None,
    given: Given | None = None,
) -> PackageReport:
    """Package a model: whole under its name, or not at all.

    Args:
        source: a file, a folder or a checkpoint prefix, or the URL of one.
        target: the folder to make, or an archive that ends in `.tar`.
        options: what to choose differently.
        listener: hears how it goes on.
        given: what a rebuild knows already.

    Returns:
        What was written; or, with `refused`, what the gates have found.

    Raises:
        ConvertError: see `converters/errors.py`; the target is then as it was.
    """
    began = time.perf_counter()
    options = options or PackageOptions()
    target = _place(target, options)
    with ExitStack() as stack:
        build = _Build(os.fspath(source), target, options, listener or Listener(), stack, given)
        report = build.run()
    return replace(report, seconds=time.perf_counter() - began)


def _place(target: str | os.PathLike[str], options: PackageOptions) -> Path:
    if "://" in os.fspath(target):
        raise UsageError(
            "packages are written to a disk", path=target,
            hint="write it to a folder, and upload that, or push an OCI layout (--oci)",
        )  # fmt: skip
    from .extra import require_extra

    require_extra()
    if options.signer:
        from .signing import check_signer

        check_signer(options.signer)
    place = Path(os.path.normpath(target))
    if options.oci and is_tar(place):
        raise UsageError(
            "an OCI layout is a folder, not a tar archive", path=place,
            hint="name a folder, or leave --oci out",
        )  # fmt: skip
    return place


class _Build:
    """One package in the making."""

    def __init__(
        self,
        source: str,
        target: Path,
        options: PackageOptions,
        listener: Listener,
        stack: ExitStack,
        given: Given | None,
    ) -> None:
        self._source = source
        self._target = target
        self._options = options
        self._convert = options.convert
        self._listener = listener
        self._stack = stack
        self._given = given

    def run(self) -> PackageReport:
        policy, given = self._read_given()
        licence = licence_of(self._source, self._options)
        staging = self._staging()
        folder = made_in(staging)
        opened, kept = self._stack.enter_context(
            chosen(self._source, replace(self._convert, dtypes=()), self._listener)
        )
        planned = plan_variants(kept, self._options.variants, self._convert, folder)
        hashes = self._stack.enter_context(self._source_hashes(opened))
        findings = self._gates(policy, opened, kept, planned, given, licence.expression)
        report = PackageReport(self._target, tuple(planned), findings)
        if report.refused or self._convert.dry_run:
            return report
        written = [write_variant(each, opened, self._listener) for each in planned]
        files = SideFiles(folder, (file for each in written for file in each.files))
        facts = self._describe(self._facts(opened, hashes, written, files, licence, given), files)
        flags = given.flags or package_flags(self._options)
        manifest = manifest_text(facts, flags).encode("ascii")
        files.write(MANIFEST, manifest)
        self._sign(folder, facts, manifest)
        self._finish(folder, staging.path(0), facts)
        staging.commit()
        return replace(
            report,
            facts=facts,
            digest=package_digest(manifest),
            left_out=written[0].report.left_out,
            notes=_notes(written),
            files=len(facts.files) + 1,
            nbytes=sum(each.size for each in facts.files) + len(manifest),
        )

    def _staging(self) -> Staging:
        """Make ready to write; a dry run only looks whether that would do."""
        overwrite, fsync = self._convert.write.overwrite, self._convert.fsync
        if self._convert.dry_run:
            return planned_only(self._target, overwrite=overwrite)
        return self._stack.enter_context(staged(self._target, overwrite=overwrite, fsync=fsync))

    def _facts(
        self,
        opened: TensorDict,
        hashes: SourceHashes,
        written: list[WrittenVariant],
        files: SideFiles,
        licence: FoundLicence,
        given: Given,
    ) -> PackageFacts:
        """Write licence and config; return what is known by then."""
        model, called = given.names or _names(self._source, opened.format)
        files.put_licence(licence)
        others = attached(opened, files)
        return PackageFacts(
            name=self._options.name or model,
            version=self._options.version,
            licence=licence.expression,
            created=hashes.newest if given.created is None else given.created,
            tool=f"tensorferry {version('tensorferry')}",
            source=source_facts(called, opened, hashes.records()),
            variants=tuple(each.variant for each in written),
            accounting=tuple(dict.fromkeys((*_accounting(written), *others))),
            counts={each.variant.name: each.report.counts for each in written},
            files=files.all(),
            fields=plain(given.fields),
            policy=plain(given.policy),
        )

    def _read_given(self) -> tuple[Any, Given]:
        """Read what flags name, before the model is looked at."""
        if self._given:
            return None, self._given
        policy, fields = None, {}
        if self._options.policy:
            from .policy import read_policy

            policy = read_policy(self._options.policy)
        if self._options.fields:
            from .fields import read_fields

            fields = read_fields(self._options.fields)
        if self._options.template:
            from .card import check_template

            check_template(self._options.template)
        return policy, Given(fields, policy.json() if policy else {}, _epoch())

    def _source_hashes(self, opened: TensorDict) -> SourceHashes:
        updates = files_of_updates(self._convert.updates, self._convert.read)
        hashes = SourceHashes([*files_of_source(self._source, opened), *updates])
        if self._convert.dry_run:
            hashes.cancel()
        return hashes

    def _gates(
        self,
        policy: Any,
        opened: TensorDict,
        kept: TensorDict,
        planned: list[PlannedVariant],
        given: Given,
        licence: str,
    ) -> tuple[Finding, ...]:
        if policy is None:
            return ()
        from .gates import run_gates

        looked_at = GateInput(
            path=self._source,
            source=opened,
            kept=kept,
            variants={each.name: each.tensors for each in planned},
            reading=self._convert.read,
            fields=given.fields,
            jobs=self._convert.threads,
            listener=self._listener,
            licence=licence,
        )
        return tuple(run_gates(policy, looked_at))

    def _describe(self, facts: PackageFacts, files: SideFiles) -> PackageFacts:
        """Write card, BOM, Kitfile and provenance; return the facts with them."""
        from .bom import bom_text
        from .card import card_text
        from .kitfile import kitfile_text
        from .provenance import provenance_text

        template = self._options.template
        files.put(CARD, card_text(facts, template).encode("utf-8"), FileKind.CARD)
        facts = replace(facts, files=files.all())
        files.put(BOM, bom_text(facts).encode("utf-8"), FileKind.BOM)
        facts = replace(facts, files=files.all())
        if self._options.kitfile:
            files.put(KITFILE, kitfile_text(facts).encode("utf-8"), FileKind.KITFILE)
            facts = replace(facts, files=files.all())
        files.put(PROVENANCE, provenance_text(facts).encode("utf-8"), FileKind.PROVENANCE)
        return replace(facts, files=files.all())

    def _sign(self, folder: Path, facts: PackageFacts, manifest: bytes) -> None:
        if not self._options.signer:
            return
        from .signing import sign_package

        digests = {each.path: each.sha256 for each in facts.files}
        sign_package(folder, {**digests, MANIFEST: package_digest(manifest)}, self._options.signer)

    def _finish(self, folder: Path, place: Path, facts: PackageFacts) -> None:
        """Bring the files into the form that was asked for."""
        if self._options.oci:
            from .oci import write_oci

            layout = folder.with_name(f"{folder.name}.oci")
            write_oci(folder, layout, facts, fsync=self._convert.fsync)
            folder = layout
        if is_tar(place):
            from .tar_package import write_tar

            write_tar(folder, place, facts.created)
        else:
            folder.rename(place)


def _epoch() -> int | None:
    """Return what `SOURCE_DATE_EPOCH` says, None if it is not there.

    Raises:
        UsageError: it is no time.
    """
    text = os.environ.get(EPOCH)
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > len("253402300799"):
        raise UsageError(EPOCH, expected="seconds since 1970", got=repr(text)[:40])
    return int(text)


def _names(source: str, format: str) -> tuple[str, str]:
    """Return what to call a model that has no name, its file's without the ending; and that."""
    path = Path(source.split("::")[0])
    name = path.name if "://" in source else path.resolve().name
    endings = (*format_named(format).extensions, ".index", ".pb", ".tar.gz", ".tgz", ".tar", ".zip")
    fitting = [each for each in endings if name.lower().endswith(each) and len(each) < len(name)]
    return (name[: -max(map(len, fitting))] if fitting else name), name


def _notes(written: list[WrittenVariant]) -> tuple[Note, ...]:
    """Return the notes of all variants; those that the first has come once."""
    first = written[0].report.notes
    others = (note for each in written[1:] for note in each.report.notes)
    return first + tuple(note for note in dict.fromkeys(others) if note not in set(first))


def _accounting(written: list[WrittenVariant]) -> Iterator[LeftOut]:
    for each in written:
        for note in each.report.notes:
            if note.kind not in _TOLD:
                yield LeftOut(note.kind.value, note.text, note.tensor)
