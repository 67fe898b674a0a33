"""What `verify` does once its words are parsed, and how it is shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..converters.errors import UsageError, printable
from ..converters.tensors import TensorSpec
from .console import FOUND, Console, human
from .options import ConvertOptions
from .proof import Fate, Proof, Row, counts, prove
from .recorded import read_report
from .witness import Hearing

__all__ = ["run_verify"]

SHOWN_UNSEEN = 5


def run_verify(
    source: str,
    target: str | None,
    options: ConvertOptions,
    *,
    report: Path | None = None,
    digest_file: Path | None = None,
    against: str | None = None,
    jobs: int = 0,
    as_json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> int:
    """Prove, and print the account of it; return the exit code.

    Raises:
        UsageError: flags of the conversion are given twice, or there is nothing to compare with.
    """
    recorded = None
    if report:
        _refuse_twice(target, options)
        recorded = read_report(report)
        recorded = recorded._replace(options=replace(recorded.options, jobs=jobs))
    options = replace(options, jobs=jobs)
    console = Console(source, quiet=quiet, verbose=verbose)
    proof = prove(
        source, target, options, recorded=recorded, digest_file=digest_file, against=against,
        listener=console,
    )  # fmt: skip
    _tell(console, target, proof, verbose=verbose)
    if as_json:
        sys.stdout.write(json.dumps(proof.json(), separators=(",", ":")) + "\n")
    else:
        sys.stdout.writelines(f"{line}\n" for line in _lines(proof, digest_file, verbose=verbose))
    return 0 if proof.proved else FOUND


def _refuse_twice(target: str | None, options: ConvertOptions) -> None:
    if target is None:
        raise UsageError("--report is about a DST, and there is none")
    if options != ConvertOptions():
        raise UsageError(
            "--report has the flags of the conversion, and there are others on the command line",
            hint="leave out one or the other",
        )


# For people


def _tell(console: Console, target: str | None, proof: Proof, *, verbose: bool) -> None:
    """Print to stderr what was compared."""
    if target is not None:
        console.say(f"{target}: {proof.target}")
    console.further_notes(proof.notes)
    rate = human(proof.nbytes / max(proof.seconds, 1e-9))
    if proof.witness:
        for line in _said(proof.witness, verbose=verbose):
            console.say(line)
    console.say(f"{human(proof.nbytes)} read in {proof.seconds:.2f} s ({rate}/s)")


def _said(witness: Hearing, *, verbose: bool) -> Iterator[str]:
    """Yield who the witness was, and what it could not see."""
    yield (
        f"witness: {witness.witness}: agrees on {len(witness.agreed)}, contradicts "
        f"{len(witness.contradicted)}, could not see {len(witness.unseen)}"
    )
    for number, (name, why) in enumerate(witness.unseen.items()):
        if number == SHOWN_UNSEEN and not verbose:
            yield f"witness: {len(witness.unseen) - number} more not seen (-v shows all)"
            return
        yield f"witness: not seen: `{name}`: {why}"


def _lines(proof: Proof, digest_file: Path | None, *, verbose: bool) -> Iterator[str]:
    """Yield what goes to stdout: what differs, or all, then the verdict."""
    yield from _table(proof.rows, "", verbose=verbose)
    yield from _table(proof.listed, f"{digest_file}: ", verbose=verbose)
    if proof.witness:
        for name, what in proof.witness.contradicted.items():
            yield printable(f"{proof.witness.witness}: {name}: {what}")
    parts = []
    if proof.target is not None:
        parts.append(_counted(proof.rows))
    if digest_file is not None:
        parts.append(f"{digest_file}: {_counted(proof.listed)}")
    if proof.witness:
        said = proof.witness
        numbers = {
            "same": said.agreed, "otherwise": said.contradicted, "not seen": said.unseen,
        }  # fmt: skip
        told = ", ".join(f"{len(names)} {what}" for what, names in numbers.items() if names)
        parts.append(f"{said.witness}: {told}")
    verdict = "proved" if proof.proved else "not proved"
    yield printable(f"{verdict}: {'; '.join(parts)}")
    if proof.proved:
        yield f"digest: {proof.digest}"


def _table(rows: Iterable[Row], before: str, *, verbose: bool) -> Iterator[str]:
    shown = [row for row in rows if verbose or row.fate is not Fate.SAME]
    cells = [(row.fate.value, printable(before + row.name), _what(row)) for row in shown]
    widths = [max((len(cell[column]) for cell in cells), default=0) for column in (0, 1)]
    for fate, name, what in cells:
        yield f"{fate:<{widths[0]}}  {name:<{widths[1]}}  {what}".rstrip()


def _what(row: Row) -> str:
    expected, got = row.expected, row.got
    if row.fate in (Fate.SHAPE, Fate.DTYPE) and expected and got:
        return f"expected {_spec(expected.spec)}, got {_spec(got.spec)}"
    if row.fate is Fate.CHANGED and expected and got:
        return f"{_spec(got.spec)}  expected {expected.digest[:16]}…, got {got.digest[:16]}…"
    held = got or expected
    parts = [_spec(held.spec), held.digest] if held and row.fate is Fate.SAME else []
    if not parts and held:
        parts = [_spec(held.spec)]
    return "  ".join(filter(None, (*parts, printable(row.text))))


def _spec(spec: TensorSpec) -> str:
    return f"{spec.dtype} {'x'.join(map(str, spec.shape)) or 'scalar'}"


def _counted(rows: Iterable[Row]) -> str:
    return ", ".join(f"{count} {fate}" for fate, count in counts(rows).items()) or "no tensors"
