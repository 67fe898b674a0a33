"""Say what was measured: a Markdown table, raw numbers as JSON, a record of the run."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from measure import Bar, Group, Result

RUNS = Path(__file__).with_name("runs")
MEGABYTE = 1_000_000

Groups = list[tuple[Group, list[Result]]]


def table(groups: Groups) -> str:
    """Return one Markdown table of all groups."""
    lines = [
        "| model | task | wall time, median | ratio to reference, median (min-max) "
        "| ratio of the fastest runs | peak RSS | bar | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, results in groups:
        lines += [_row(group, result, results) for result in results]
    return "\n".join(lines)


def is_short(groups: Groups) -> bool:
    """Tell whether some contestant failed or stays below one of its bars."""
    return any(
        result.error or _verdict(result, results).startswith("**short")
        for _, results in groups
        for result in results
    )


def _row(group: Group, result: Result, results: list[Result]) -> str:
    name = result.contestant.name
    if not result.samples:
        return f"| {group.title} | {name} | failed | | | | | **failed** |"
    bars = "; ".join(_bar_text(bar, result, results) for bar in result.contestant.bars)
    cells = (
        group.title,
        name,
        f"{result.seconds:.3f} s",
        _ratio_text(result, results[0]),
        f"{result.best / results[0].best:.2f}x" if result is not results[0] else "",
        f"{'at most ' if result.peak_is_floor else ''}{result.peak / MEGABYTE:.0f} MB",
        bars,
        _verdict(result, results),
    )
    return f"| {' | '.join(cells)} |"


def _ratio_text(result: Result, reference: Result) -> str:
    ratios = result.ratios(reference)
    if result is reference or not ratios:
        return "reference"
    return f"{median(ratios):.2f}x ({min(ratios):.2f}-{max(ratios):.2f})"


def _bar_text(bar: Bar, result: Result, results: list[Result]) -> str:
    if bar.kind == "ratio":
        aim = f", aim < {bar.aim}" if bar.aim else ""
        return f"<= {bar.limit}x {bar.against}{aim}"
    if bar.kind == "faster":
        return f">= {bar.limit:.0f}x faster than TensorFlow: {_figure(bar, result, results):.1f}x"
    if bar.kind == "memory":
        return f"<= {bar.limit / MEGABYTE:.0f} MB"
    if bar.kind == "busy":
        return f">= {bar.limit:.0%} of the cores: {_figure(bar, result, results):.0%}"
    if bar.kind == "each":
        figure = _figure(bar, result, results)
        return f"<= {bar.limit * 1000:g} ms for each of {bar.count:,}: {figure * 1000:.2f} ms"
    return f"<= {bar.limit:g} s"


def _figure(bar: Bar, result: Result, results: list[Result]) -> float:
    """Return what is held against a bar; infinite where it could not be measured."""
    if bar.kind == "memory":
        return result.peak
    if bar.kind == "seconds":
        return result.seconds
    if bar.kind == "busy":
        return result.busy
    other = next(each for each in results if each.contestant.name == bar.against)
    if bar.kind == "each":
        return (result.seconds - other.seconds) / bar.count if other.samples else float("inf")
    faster = bar.kind == "faster"
    ratios = other.ratios(result) if faster else result.ratios(other)
    return median(ratios) if ratios else float("-inf" if faster else "inf")


def _verdict(result: Result, results: list[Result]) -> str:
    if result.error:
        return "**failed**"
    if not result.contestant.bars:
        return ""
    aims = True
    for bar in result.contestant.bars:
        figure = _figure(bar, result, results)
        if figure < bar.limit if bar.kind in ("busy", "faster") else figure > bar.limit:
            return f"**short** ({bar.kind})"
        aims = aims and (bar.aim is None or figure < bar.aim)
    return "ok" if aims else "ok, short of the aim"


def machine() -> str:
    """Return processor, cores, memory, kernel and load; nothing that names the machine."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return (
        f"{_processor()}, {cores} cores, {memory:.0f} GB, {platform.system()} {_kernel()}; "
        f"load {os.getloadavg()[1]:.1f} in the last five minutes"
    )


def _processor() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def _kernel() -> str:
    """Return the kernel's version number without a vendor's suffix."""
    return platform.release().split("-", 1)[0]


def raw(groups: Groups, software: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Return every single measurement."""
    return {
        "machine": machine(),
        "software": software,
        "groups": [
            {
                "title": group.title,
                "bytes": [source.stat().st_size for source in group.sources],
                "results": [_raw_result(result) for result in results],
            }
            for group, results in groups
        ],
    }


def _raw_result(result: Result) -> dict[str, Any]:
    samples = {at: asdict(sample) for at, sample in result.samples.items()}
    return {"task": result.contestant.name, "rounds": samples, "failed": bool(result.error)}


def record(text: str, software: dict[str, dict[str, str]], name: str = "") -> Path:
    """Store a table under `runs/` with the machine and the versions; return where.

    Args:
        text: Markdown.
        software: versions by name, of each environment that took part.
        name: put after the date, where it is not the whole main bench.
    """
    RUNS.mkdir(exist_ok=True)
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    stem = f"{today}-{name}" if name else today
    path = next(each for each in _numbered(stem) if not each.exists())
    lines = [f"# {path.stem}", "", machine(), ""]
    for title, versions in software.items():
        listed = ", ".join(f"{package} {version}" for package, version in versions.items())
        lines.append(f"- {title}: {listed}")
    path.write_text("\n".join([*lines, "", text, ""]), encoding="utf-8")
    return path


def _numbered(stem: str) -> Iterable[Path]:
    yield RUNS / f"{stem}.md"
    for number in range(2, 1000):
        yield RUNS / f"{stem}-{number}.md"
