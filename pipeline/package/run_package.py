"""What the verb `package` does once its words are parsed, and how it is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...converters.errors import VerificationError, printable
from ..console import FOUND, Console, human
from ..finding_lines import finding_lines
from .build import PackageReport, build_package
from .options import PackageOptions
from .verify import Verified, verify_package

if TYPE_CHECKING:
    from .signers import Trust

__all__ = ["run_check_package", "run_package", "run_verify_package"]

STDOUT = "-"


def run_package(
    source: str,
    target: str,
    options: PackageOptions,
    *,
    sarif: str | None = None,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> int:
    """Package a model and print the account of it; return the exit code: 1 if a gate refused."""
    console = Console(source, quiet=quiet, verbose=verbose)
    report = build_package(source, target, options, console)
    if sarif is not None:
        _write_sarif(sarif, report, source)
    if as_json:
        _print_json(report.json())
    elif sarif != STDOUT:
        _print_lines(finding_lines(report.findings))
    if report.refused:
        count = sum(1 for each in report.findings if each.level.value != "note")
        console.say(
            f"{target}: refused by {count} finding{'s' if count > 1 else ''}; nothing written"
        )
        return FOUND
    if report.facts is None:
        _would(console, report)
        if not as_json:
            _print_lines(
                f"{printable(str(report.target / file.path.name))}  {file.size:,}"
                for each in report.planned
                for file in each.plan.files
            )
        return 0
    console.further_notes(report.notes)
    _done(console, report, report.facts.counts)
    if not as_json and sarif != STDOUT:
        _print_lines([report.digest if quiet else f"digest: {report.digest}"])
    return 0


def _would(console: Console, report: PackageReport) -> None:
    size = human(sum(each.plan.size for each in report.planned))
    console.say(f"{report.target}: would hold {size} of weights; nothing written")


def _done(console: Console, report: PackageReport, counts: Any) -> None:
    for variant, what in counts.items():
        shown = ", ".join(f"{count} {name}" for name, count in what.items() if count)
        console.say(f"{f'variant {variant}' if variant else 'weights'}: {shown or 'no tensors'}")
    console.left_out(report.left_out)
    size = human(report.nbytes)
    took = f"{report.seconds:.2f} s ({human(report.nbytes / max(report.seconds, 1e-9))}/s)"
    console.say(f"{report.target}: {report.files} files, {size} in {took}")


def _write_sarif(place: str, report: PackageReport, source: str) -> None:
    from ..run_check import write_text
    from ..sarif import sarif_log

    log = sarif_log(report.findings, source)
    if place == STDOUT:
        _print_json(log)
    else:
        write_text(Path(place), json.dumps(log, indent=1))


def run_verify_package(
    package: str,
    *,
    trust: Trust | None = None,
    digest: str = "",
    jobs: int = 0,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Verify a package and print what is wrong with it; return the exit code: 6 if anything is."""
    from ..options import default_jobs

    console = Console(package, quiet=quiet or as_json)
    found = verify_package(
        package, trust=trust, digest=digest, jobs=jobs or default_jobs(), listener=console
    )
    if as_json:
        _print_json(found.json())
    else:
        _print_lines(
            printable(f"{each.what:<9}  {Path(package) / each.path}: {each.text}")
            for each in found.problems
        )
    _tell(console, package, found, asked=trust is not None)
    if found.problems:
        count = len(found.problems)
        console.say(f"{package}: not verified: {count} problem{'s' if count > 1 else ''}")
        return VerificationError.exit_code
    if not as_json:
        _print_lines([found.digest if quiet else f"verified: {found.digest}"])
    return 0


def _tell(console: Console, package: str, found: Verified, *, asked: bool) -> None:
    if found.facts:
        tensors = sum(len(each.tensors) for each in found.facts.variants)
        console.say(
            f"{package}: {found.files} files, {human(found.nbytes)}, {tensors} tensors in "
            f"{len(found.facts.variants)} variant{'s' if len(found.facts.variants) > 1 else ''}"
        )
    if found.signer:
        console.say(f"signed by {found.signer}")
    elif found.is_signed and not asked:
        console.say("note: the signature was not checked; name the key with --key")
    elif not found.is_signed and not asked:
        console.say("note: not signed: whoever changes a file can change the manifest too")


def run_check_package(
    package: str,
    source: str,
    again: PackageOptions,
    *,
    as_json: bool = False,
    quiet: bool = False,
) -> int:
    """Build a package again and print which files differ; return the exit code: 1 if any does."""
    from .rebuild import rebuild

    console = Console(source, quiet=quiet or as_json)
    found = rebuild(package, source, again, console)
    if as_json:
        _print_json(found.json())
    else:
        _print_lines(printable(f"{each.what}  {each.path}: {each.text}") for each in found.problems)
    if found.problems:
        console.say(f"{package}: differs from what {source} gives: {len(found.problems)} files")
        return FOUND
    console.say(f"{package}: {source} gives the same {found.files} files")
    return 0


def _print_json(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, separators=(",", ":")) + "\n")


def _print_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
