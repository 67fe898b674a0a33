"""Roots, URLs or not, and what a refused target means for the next batch."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import gettempdir

import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.pipeline.batch.jobs import BatchPlan, Job
from tensorferry.pipeline.batch.ledger import Ledger, recipe_of
from tensorferry.pipeline.batch.places import inside, is_url, joined, litter_of, place_of, resolved
from tensorferry.pipeline.batch.run import BatchOptions, run_batch
from tensorferry.pipeline.convert import ConvertOptions


def test_a_url_stays_one() -> None:
    root = place_of("S3://bucket/zoo/")
    assert str(root) == "s3://bucket/zoo"
    assert str(root / "a" / "b.npz") == "s3://bucket/zoo/a/b.npz"
    assert str((root / "a").parent) == str(resolved(root)) == str(root)
    assert is_url(root)
    assert not is_url(place_of("zoo"))
    with pytest.raises(UsageError, match="is a file of this machine"):
        place_of("FILE:///zoo")


@pytest.mark.parametrize(
    ("folder", "text", "expected"),
    [
        ("lists", "a.npz", "lists/a.npz"),
        ("lists", "/a.npz", "/a.npz"),
        ("lists", "gs://b/a.npz", "gs://b/a.npz"),
        ("s3://b/lists", "a/c.npz", "s3://b/lists/a/c.npz"),
        ("s3://b/lists", "/a.npz", "/a.npz"),
        ("s3://b/lists", "gs://b/a.npz", "gs://b/a.npz"),
    ],
)
def test_sources_of_a_list(folder: str, text: str, expected: str) -> None:
    assert str(joined(place_of(folder), text)) == expected


def test_targets_in_full_lose_the_root() -> None:
    assert inside(place_of("s3://b/out"), "s3://b/out/a/b.npz") == "a/b.npz"
    assert inside(place_of("s3://b/out"), "s3://b/other/b.npz") == "s3://b/other/b.npz"
    assert inside(Path("out"), "out/b.npz") == "out/b.npz"


def test_where_killed_workers_leave_something() -> None:
    def litter(source: str, target: str) -> list[Path]:
        return [*litter_of(Job(source, target, 0, "", ConvertOptions()))]

    temporary = Path(gettempdir())
    assert litter("a.npz", "out/b.npz") == [Path("out")]
    assert litter("s3://b/a.npz", "out/b.npz") == [Path("out"), temporary]
    assert litter("a.npz", "s3://b/b.npz") == [temporary]


def test_the_server_is_no_part_of_a_recipe() -> None:
    plain = ConvertOptions(target_format="npz")
    other = replace(plain, read=replace(plain.read, endpoint_url="http://127.0.0.1:9"))
    assert recipe_of(plain) == recipe_of(other)


def test_what_was_refused_once_is_refused_again(
    make_zoo: Callable[[int], Path], plan: Callable[..., BatchPlan], tmp_path: Path
) -> None:
    make_zoo(2)
    target = Path(plan().jobs[0].target)
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    again = BatchOptions(retry_failed=True)
    for expected in (1, 0):
        with Ledger(tmp_path / "out") as ledger, ThreadPoolExecutor(1) as threads:
            totals = run_batch(plan(), ledger, threads, again)
        assert (totals.done, totals.failed) == (expected, 1)
        assert target.read_bytes() == b"mine"
    target.unlink()
    with Ledger(tmp_path / "out") as ledger, ThreadPoolExecutor(1) as threads:
        assert run_batch(plan(), ledger, threads, again).done == 1
    target.write_bytes(b"edited")
    with Ledger(tmp_path / "out") as ledger, ThreadPoolExecutor(1) as threads:
        assert run_batch(plan(), ledger, threads, again).done == 1
