"""What a package says about itself: the records that manifest, card and the like are made of.

Paths inside of a package are relative, with slashes. Sizes are in bytes, file hashes SHA-256 and
tensor digests BLAKE3 (`converters/digests.py`), all in lower-case hexadecimal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ...converters.tensors import TensorSpec

__all__ = [
    "BOM", "CARD", "KITFILE", "MANIFEST", "PROVENANCE", "SIGNATURE", "FileKind", "FileRecord",
    "LeftOut", "PackageFacts", "SourceFacts", "TensorRecord", "Variant",
]  # fmt: skip

MANIFEST = "manifest.json"
PROVENANCE = "provenance.intoto.json"
BOM = "bom.cdx.json"
CARD = "README.md"
KITFILE = "Kitfile"
SIGNATURE = "model.sig"  # what model-signing calls it by default


class FileKind(Enum):
    """What a file of a package is for."""

    WEIGHTS = "weights"
    INDEX = "index"
    CARD = "card"
    BOM = "bom"
    PROVENANCE = "provenance"
    CONFIG = "config"
    LICENCE = "licence"
    KITFILE = "kitfile"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file.

    Attributes:
        path: relative, with slashes.
        size: in bytes.
        sha256: of the whole file.
        kind: what it is for; None for a file of the source.
    """

    path: str
    size: int
    sha256: str
    kind: FileKind | None = None


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor of a variant.

    Attributes:
        spec: dtype and shape, as stored.
        digest: BLAKE3 over dtype, shape and bytes.
        file: path of the file that holds it.
    """

    spec: TensorSpec
    digest: str
    file: str


@dataclass(frozen=True)
class Variant:
    """The weights in one choice of types.

    Attributes:
        name: such as `f32` or `bf16`; empty where only one was written, in the types of the source.
        casts: the casts that made it, as `--dtype` takes them.
        files: paths of its files, the index last where there is one.
        tensors: by name, in stored order.
        digest: one for all tensors (`digest_file.model_digest`).
        flags: how it was converted, as reports record it (`recorded.recorded_flags`).
    """

    name: str
    casts: tuple[str, ...]
    files: tuple[str, ...]
    tensors: Mapping[str, TensorRecord]
    digest: str
    flags: Mapping[str, Any]

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors."""
        return sum(each.spec.size for each in self.tensors.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(each.spec.nbytes for each in self.tensors.values())


@dataclass(frozen=True)
class SourceFacts:
    """What the package was made from.

    Attributes:
        name: the last part of its path or URL; packages say nothing of where it lay.
        format: name of its format.
        summary: what was recognised, in a phrase.
        producer: what wrote it and which version, as far as it says; else empty.
        step: training step, where it is known.
        files: all files it consists of, sorted by path.
        details: signatures, optimizer and so on, as `inspect --json` names them.
        metadata: texts about the whole model.
    """

    name: str
    format: str
    summary: str
    producer: str
    step: int | None
    files: tuple[FileRecord, ...]
    details: Mapping[str, Any] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A tensor of the source that no variant holds, or something else that was lost or changed.

    Attributes:
        kind: as `converters/notes.py` names it.
        text: why.
        tensor: its name, where it is about one.
    """

    kind: str
    text: str
    tensor: str | None = None


@dataclass(frozen=True)
class PackageFacts:
    """Everything that a package says about itself, but for the files made from this.

    Attributes:
        name: of the model.
        version: of the model, as its owner counts; empty if unsaid.
        licence: SPDX expression, or empty.
        created: seconds since 1970, of `SOURCE_DATE_EPOCH` or of the newest file of the source.
        tool: `tensorferry 0.1.0`.
        source: what it was made from.
        variants: at least one.
        accounting: what was left out, cast or renamed, of all variants.
        counts: number of tensors of the source by what became of them, by variant name.
        files: all files but manifest and signature.
        fields: what the owner says, such as `title`, `tags`, `metrics`.
        policy: the policy that it has passed, as JSON values, and empty without one.
    """

    name: str
    version: str
    licence: str
    created: int
    tool: str
    source: SourceFacts
    variants: tuple[Variant, ...]
    accounting: tuple[LeftOut, ...]
    counts: Mapping[str, Mapping[str, int]]
    files: tuple[FileRecord, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    policy: Mapping[str, Any] = field(default_factory=dict)
