"""Prove that a package is what its manifest says, and what somebody signed.

Every file is read once: SHA-256 of the file and BLAKE3 of the tensors in it are taken from the same
pieces. A wrong file is no exception but a row, so that one run tells of all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ...converters.digests import digest
from ...converters.errors import ConvertError, CorruptFileError, VerificationError
from ...converters.opening import open_tensors
from ...converters.sources import Source
from ...converters.tensors import TensorDict
from ...converters.threads import run_all
from ..convert import Listener
from .manifest import package_digest
from .manifest_file import MAX_BYTES, Manifest, parse_manifest
from .ordered_hash import FileHash, Held
from .records import MANIFEST, SIGNATURE, FileKind, PackageFacts, Variant
from .view import PackageView, opened_view
from .weights import home

if TYPE_CHECKING:
    from .signers import Trust

__all__ = ["Problem", "Verified", "verify_package"]

PIECE_BYTES = 1 << 20
THREAD_FLOOR_BYTES = 16 << 20  # below this a second thread costs more than it saves
MAX_SIGNATURE_BYTES = 16 << 20


class Problem(NamedTuple):
    """Something that is not as it should be.

    Attributes:
        what: in a word: `changed`, `missing`, `extra`, `unsafe`, `signature`.
        path: of the file.
        text: more about it, perhaps with a tensor's name.
    """

    what: str
    path: str
    text: str


@dataclass(frozen=True)
class Verified:
    """What came of verifying a package.

    Attributes:
        problems: empty where all is well.
        digest: of the package; empty without a manifest.
        facts: what the manifest says; None where it could not be read.
        signer: who signed; None where that was not checked.
        is_signed: whether there is a signature.
        files: number of files that were hashed.
        nbytes: bytes that were hashed.
    """

    problems: tuple[Problem, ...]
    digest: str = ""
    facts: PackageFacts | None = None
    signer: str | None = None
    is_signed: bool = False
    files: int = 0
    nbytes: int = 0

    def json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "verified": not self.problems,
            "digest": self.digest or None,
            "signed": self.is_signed,
            "signer": self.signer,
            "files": self.files,
            "bytes": self.nbytes,
            "problems": [each._asdict() for each in self.problems],
        }


def verify_package(
    path: str | Path,
    *,
    trust: Trust | None = None,
    digest: str = "",
    jobs: int,
    listener: Listener | None = None,
) -> Verified:
    """Compare a package with its manifest, file by file and tensor by tensor.

    Args:
        path: a folder, a tar archive or an OCI layout.
        trust: whose signature is accepted; None checks none.
        digest: what the package's digest has to be; empty for any.
        jobs: number of threads.
        listener: hears how reading goes on.

    Raises:
        NotRecognisedError: there is no package.
        CorruptFileError: an archive or a layout is damaged, or the manifest is none.
        UsageError: a key cannot be used.
    """
    with opened_view(Path(path)) as view:
        return _Verification(view, jobs, listener or Listener()).run(trust, digest)


@dataclass
class _Verification:
    """One run."""

    view: PackageView
    jobs: int
    listener: Listener
    problems: list[Problem] = field(default_factory=list)

    def run(self, trust: Trust | None, wanted: str) -> Verified:
        view = self.view
        self.problems += [Problem("unsafe", path, text) for path, text in view.odd.items()]
        if MANIFEST not in view.files:
            self._problem("missing", MANIFEST, "a package has one")
            return Verified(tuple(self.problems))
        text, manifest = self._manifest()
        found = package_digest(text)
        if wanted and found != wanted:
            self._problem("changed", MANIFEST, f"digest, expected {wanted}, got {found}")
        if manifest is None:
            return Verified(tuple(self.problems), found)
        present = self._compare_lists(manifest.facts)
        hashes = self._read(manifest.facts, present)
        digests = {each: hashes[each].sha256 for each in hashes} | {MANIFEST: found}
        signer = self._signature(digests, trust)
        return Verified(
            tuple(self.problems),
            found,
            manifest.facts,
            signer,
            SIGNATURE in view.files,
            len(digests),
            sum(view.files[each].size for each in digests),
        )

    def _problem(self, what: str, path: str, text: str) -> None:
        self.problems.append(Problem(what, path, text))

    def _manifest(self) -> tuple[bytes, Manifest | None]:
        text = b""
        try:
            text = self.view.read(MANIFEST, MAX_BYTES)
            return text, parse_manifest(text)
        except CorruptFileError as error:
            self._problem("changed", MANIFEST, error.message)
            return text, None

    def _compare_lists(self, facts: PackageFacts) -> list[str]:
        """Compare names and sizes; return the paths of the files that are there and listed."""
        listed = {each.path: each for each in facts.files}
        present = []
        for path in sorted(listed.keys() | self.view.files.keys() - {MANIFEST, SIGNATURE}):
            source = self.view.files.get(path)
            if path not in listed:
                self._problem("extra", path, "the manifest does not list it")
            elif source is None:
                self._problem("missing", path, f"expected {listed[path].size} bytes")
            elif source.size != listed[path].size:
                text = f"size, expected {listed[path].size} bytes, got {source.size}"
                self._problem("changed", path, text)
                present.append(path)
            else:
                present.append(path)
        return present

    # What the bytes say

    def _read(self, facts: PackageFacts, present: list[str]) -> dict[str, FileHash]:
        """Hash all files that are there, and compare them; what is extra is hashed too."""
        extra = [each for each in self.view.files if each not in (*present, MANIFEST, SIGNATURE)]
        weights = {each.path for each in facts.files if _is_weights(each.kind)} & set(present)
        with self.view.mounted(weights) as folder:
            opened = {each.name: self._opened(each, folder, weights) for each in facts.variants}
            held: dict[str, list[Held]] = {}
            loose: dict[tuple[str, str], str] = {}
            for variant in facts.variants:
                tensors = opened[variant.name]
                if tensors is not None:
                    with tensors:
                        self._compare_specs(variant, tensors)
                        loose |= _sorted(variant, tensors, held)
        hashes = {each: FileHash(held.get(each, ())) for each in (*present, *extra)}
        self._stream(hashes)
        for file in facts.files:
            same_size = file.path in hashes and self.view.files[file.path].size == file.size
            if same_size and hashes[file.path].sha256 != file.sha256:
                got = hashes[file.path].sha256
                self._problem("changed", file.path, f"sha256, expected {file.sha256}, got {got}")
        self._compare_digests(facts, hashes, loose)
        return hashes

    def _opened(self, variant: Variant, folder: Path, weights: set[str]) -> TensorDict | None:
        """Open the weights of a variant, if all of them are there."""
        if not variant.files or not weights.issuperset(variant.files):
            return None
        last = variant.files[-1]
        try:
            return open_tensors(folder / last, format="safetensors")
        except ConvertError as error:
            self._problem("changed", last, error.message)
            return None

    def _compare_specs(self, variant: Variant, tensors: TensorDict) -> None:
        last = variant.files[-1]
        for name in sorted(variant.tensors.keys() | tensors.keys()):
            expected, got = variant.tensors.get(name), tensors.get(name)
            if got is None and expected:
                self._problem("missing", expected.file, f"tensor `{name}`")
            elif expected is None:
                self._problem("extra", last, f"tensor `{name}`: the manifest does not list it")
            elif got is not None and got.spec != expected.spec:
                spec, other = expected.spec, got.spec
                text = f"expected {spec.dtype} {spec.shape}, got {other.dtype} {other.shape}"
                self._problem("changed", expected.file, f"tensor `{name}`: {text}")

    def _stream(self, hashes: Mapping[str, FileHash]) -> None:
        sources = {path: self.view.files[path] for path in hashes}
        total = sum(each.size for each in sources.values())

        def work() -> Any:
            buffer = memoryview(bytearray(PIECE_BYTES))

            def take(task: tuple[Source, int, FileHash]) -> None:
                source, at, hashing = task
                view = buffer[: min(PIECE_BYTES, source.size - at)]
                source.read_into(at, view)
                hashing.put(at, view)
                self.listener.advanced(len(view))

            return take

        def stop() -> None:
            for each in hashes.values():
                each.stop()

        self.listener.reading(total)
        try:
            jobs = self.jobs if total >= THREAD_FLOOR_BYTES else 1
            run_all(work, _pieces(sources, hashes), jobs, stop)
        finally:
            self.listener.finished()

    def _compare_digests(
        self,
        facts: PackageFacts,
        hashes: Mapping[str, FileHash],
        loose: Mapping[tuple[str, str], str],
    ) -> None:
        """Compare the digests of tensors, where their specs were the same."""
        for variant in facts.variants:
            for name, record in variant.tensors.items():
                key = _key(variant.name, name)
                hashing = hashes.get(record.file)
                got = loose.get((variant.name, name)) or (hashing and hashing.digests.get(key))
                if got and got != record.digest:
                    text = f"tensor `{name}`: digest, expected {record.digest}, got {got}"
                    self._problem("changed", record.file, text)

    # Who says so

    def _signature(self, digests: Mapping[str, str], trust: Trust | None) -> str | None:
        if trust is None:
            return None
        if SIGNATURE not in self.view.files:
            self._problem("missing", SIGNATURE, "the package is not signed")
            return None
        from .signing import verify_signature

        try:
            return verify_signature(self.view.read(SIGNATURE, MAX_SIGNATURE_BYTES), digests, trust)
        except (VerificationError, CorruptFileError) as error:
            self._problem("signature", SIGNATURE, error.message)
            return None


def _is_weights(kind: FileKind | None) -> bool:
    return kind in (FileKind.WEIGHTS, FileKind.INDEX)


def _key(variant: str, name: str) -> str:
    return f"{variant}\0{name}"  # no name of a variant has a NUL


def _sorted(
    variant: Variant, tensors: TensorDict, held: dict[str, list[Held]]
) -> dict[tuple[str, str], str]:
    """Put tensors down by the file that holds them; return digests of those that headers hold.

    Tensors that share their bytes, as tied ones do, are compared once: their digests are equal.
    """
    loose: dict[tuple[str, str], str] = {}
    seen: set[tuple[str, int]] = set()
    for name, record in variant.tensors.items():
        tensor = tensors.get(name)
        if tensor is None or tensor.spec != record.spec:
            continue
        file = home(tensor)
        if not file:
            loose[variant.name, name] = digest(tensor)
        elif file == record.file and tensor.extents:
            offset = tensor.extents[0].offset
            if (file, offset) not in seen or not tensor.nbytes:
                held.setdefault(file, []).append(
                    Held(offset, tensor.spec, _key(variant.name, name))
                )
            seen.add((file, offset))
    return loose


def _pieces(
    sources: Mapping[str, Source], hashes: Mapping[str, FileHash]
) -> Iterator[tuple[Source, int, FileHash]]:
    for path, source in sources.items():
        for at in range(0, source.size, PIECE_BYTES):
            yield source, at, hashes[path]
