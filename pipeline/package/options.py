"""What may be chosen about a package."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import ConvertOptions

if TYPE_CHECKING:
    from .signers import Signer

__all__ = ["PackageOptions"]


@dataclass(frozen=True)
class PackageOptions:
    """What may be chosen about a package.

    Attributes:
        convert: how the weights are chosen, changed and laid out; of `write`, only
            `max_shard_bytes`, `untie` and `overwrite` mean something here.
        variants: types such as `f32` and `bf16`, each of which gets files of its own; none writes
            one set, in the types of the source but for what `convert` casts.
        name: of the model; empty takes that of the source.
        version: of the model, as its owner counts.
        licence: SPDX expression.
        licence_file: text of the licence; None looks beside the source.
        fields: TOML file of what the owner says, for the card.
        template: of the card.
        policy: TOML file of gates to pass.
        signer: who signs, and how.
        oci: write an OCI image layout instead of a plain folder.
        kitfile: put a Kitfile in.
    """

    convert: ConvertOptions = field(default_factory=lambda: ConvertOptions(weights_only=True))
    variants: tuple[str, ...] = ()
    name: str = ""
    version: str = ""
    licence: str = ""
    licence_file: Path | None = None
    fields: Path | None = None
    template: Path | None = None
    policy: Path | None = None
    signer: Signer | None = None
    oci: bool = False
    kitfile: bool = False
