"""The verb `package` and those below it: words and flags in, calls of `package.run_package` out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ..converters.errors import UsageError
from ..converters.registry import WriteOptions
from .flags import (
    Debug,
    Jobs,
    Json,
    Quiet,
    Reading,
    Verbose,
    choosing,
    end,
    opening,
    parse_size,
)  # fmt: skip
from .options import ConvertOptions

__all__ = ["DEFAULT", "package"]

DEFAULT = "SRC DIR"  # no word of a command line equals it
VERBS = ("check", "verify")

Template = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Template of the model card, in jinja2.")
]
LicenceFile = Annotated[
    Path | None, typer.Option("--license-file", metavar="FILE", help="Text of the licence.")
]


class _Group(TyperGroup):
    """A group whose default command makes a package."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*VERBS, "--help", DEFAULT}:
            args = [DEFAULT, *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


package = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Make a package to deploy: weights, manifest, card, provenance; or verify one.",
    epilog="`convert package SRC DIR --help` lists the flags.",
)


@package.command(DEFAULT)
@opening
@choosing
def package_command(
    source: Annotated[str, typer.Argument(metavar="SRC", help="File, folder or prefix.")],
    target: Annotated[
        str, typer.Argument(metavar="DIR", help="Folder to make, or an archive: model.tar.")
    ],
    *,
    reading: Reading,
    choosing: ConvertOptions,
    everything: Annotated[
        bool, typer.Option("--everything", help="Keep optimizer state, counters and tables too.")
    ] = False,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="Write files in this type: f32, bf16; repeatable."),
    ] = None,
    max_shard_size: Annotated[
        int | None,
        typer.Option(parser=parse_size, metavar="SIZE", help="Split data: 5GB, 512MiB."),
    ] = None,
    untie: Annotated[
        bool, typer.Option("--untie", help="Store tied tensors under each of their names.")
    ] = False,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the model.")] = "",
    version: Annotated[
        str, typer.Option("--version", metavar="VERSION", help="Version of the model.")
    ] = "",
    licence: Annotated[
        str, typer.Option("--license", metavar="SPDX", help="Licence of the weights: Apache-2.0.")
    ] = "",
    license_file: LicenceFile = None,
    fields: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What the card says, in TOML.")
    ] = None,
    template: Template = None,
    policy: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Gates to pass, in TOML.")
    ] = None,
    sarif: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write what gates found as SARIF; - is stdout."),
    ] = None,
    sign: Annotated[
        str, typer.Option(metavar="KEY", help="Sign with this private key, or `sigstore`.")
    ] = "",
    passphrase: Annotated[
        str, typer.Option(metavar="PLACE", help="Of the key: env:NAME or file:PATH.")
    ] = "",
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Certificate of the key.")
    ] = None,
    chain: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Certificate between it and a root; repeatable."),
    ] = None,
    identity_token: Annotated[
        Path | None, typer.Option(metavar="FILE", help="OpenID Connect token, for sigstore.")
    ] = None,
    kitfile: Annotated[
        bool, typer.Option("--kitfile", help="Put a Kitfile in; --oci always does.")
    ] = False,
    oci: Annotated[bool, typer.Option("--oci", help="Write DIR as an OCI image layout.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Any loss is an error.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the package that is there.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan, write nothing.")] = False,
    fsync: Annotated[bool, typer.Option("--fsync", help="Wait for the disk.")] = False,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print the package's digest only.")
    ] = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Make a package of the weights in SRC; whole or not at all."""

    def run() -> int:
        from .package.options import PackageOptions
        from .package.run_package import run_package
        from .package.signers import signer_of

        if everything and choosing.weights_only:
            raise UsageError("--everything and --weights-only", hint="leave one of them out")
        signer = signer_of(
            sign, passphrase=passphrase, certificate=certificate, chain=tuple(chain or ()),
            identity_token=identity_token,
        )  # fmt: skip
        convert = replace(
            choosing,
            source_format=reading.format,
            read=reading.options,
            write=WriteOptions(overwrite=overwrite, max_shard_bytes=max_shard_size, untie=untie),
            weights_only=not everything,
            strict=strict,
            dry_run=dry_run,
            fsync=fsync,
            jobs=jobs,
        )
        options = PackageOptions(
            convert=convert, variants=tuple(variant or ()), name=name, version=version,
            licence=licence, licence_file=license_file, fields=fields, template=template,
            policy=policy, signer=signer, oci=oci, kitfile=kitfile or oci,
        )  # fmt: skip
        return run_package(
            source, target, options, sarif=sarif, as_json=as_json, quiet=quiet, verbose=verbose
        )

    end(run, debug=debug)


@package.command("verify")
def verify_command(
    place: Annotated[
        str, typer.Argument(metavar="DIR", help="Package: a folder, .tar or OCI layout.")
    ],
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Public key that must have signed it.")
    ] = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option("--root", metavar="FILE", help="Root certificate to trust; repeatable."),
    ] = None,
    identity: Annotated[
        str, typer.Option(metavar="WHO", help="Who must have signed it by sigstore.")
    ] = "",
    issuer: Annotated[str, typer.Option(metavar="URL", help="Who vouches for that.")] = "",
    digest: Annotated[
        str, typer.Option(metavar="SHA256", help="What the package's digest has to be.")
    ] = "",
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare a package with its manifest and its signature; exit code 6 if it differs."""

    def run() -> int:
        from .package.run_package import run_verify_package
        from .package.signers import trust_of

        trust = trust_of(key=key, roots=tuple(roots or ()), identity=identity, issuer=issuer)
        return run_verify_package(
            place, trust=trust, digest=digest, jobs=jobs, as_json=as_json, quiet=quiet
        )

    end(run, debug=debug)


@package.command("check")
def check_command(
    place: Annotated[
        str, typer.Argument(metavar="DIR", help="Package: a folder, .tar or OCI layout.")
    ],
    source: Annotated[str, typer.Argument(metavar="SRC", help="What it was made from.")],
    template: Template = None,
    license_file: LicenceFile = None,
    update: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Update it was made with; repeatable.")
    ] = None,
    endpoint_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Server of SRC, for object stores.")
    ] = None,
    jobs: Jobs = 0,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Build a package again from SRC, and compare; exit code 1 if a file differs."""

    def run() -> int:
        from ..converters.registry import ReadOptions
        from .package.options import PackageOptions
        from .package.run_package import run_check_package

        convert = ConvertOptions(
            read=ReadOptions(endpoint_url=endpoint_url), updates=tuple(update or ()), jobs=jobs
        )
        again = PackageOptions(convert=convert, template=template, licence_file=license_file)
        return run_check_package(place, source, again, as_json=as_json, quiet=quiet)

    end(run, debug=debug)
