"""Batches whose models, targets and ledger are in a store."""

from __future__ import annotations

import json
import random
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import ConvertError, NotRecognisedError, UsageError
from tensorferry.converters.registry import ReadOptions
from tensorferry.pipeline.batch.ledger import LEDGER
from tensorferry.pipeline.batch.ledgers import open_ledger
from tensorferry.pipeline.batch.places import place_of
from tensorferry.pipeline.batch.plan import plan_jobs, plan_list
from tensorferry.pipeline.batch.run import BatchOptions, Totals, run_batch
from tensorferry.pipeline.convert import ConvertOptions

FAST = BatchOptions(jobs=2, patience=0.01)
LEDGER_FILES = "tensorferry-ledger"


def test_models_go_from_anywhere_to_anywhere(
    cloud: Any, zoo: Path, tmp_path: Path, batches: Any
) -> None:
    url = cloud.put(zoo, "zoo")
    local, there = tmp_path / "out", cloud.url("out")
    assert batches.run(zoo, local / "a") == (4, 0, 0)
    assert batches.run(url, local / "b") == (4, 0, 0)
    assert batches.run(zoo, f"{there}/c") == (4, 0, 0)
    assert batches.run(url, f"{there}/d") == (4, 0, 0)

    def files(folder: Path) -> dict[str, bytes]:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    expected = files(local / "a")
    assert len(expected) == 5
    del expected[LEDGER]
    stored = {
        name: {
            key.removeprefix(f"out/{name}/"): data
            for key, data in cloud.objects(f"out/{name}/").items()
        }
        for name in "cd"
    }
    for found in (files(local / "b"), stored["c"], stored["d"]):
        assert found.pop(LEDGER)
        assert found == expected


def counts(totals: Totals) -> tuple[int, int, int]:
    return totals.done, totals.unchanged, totals.failed


class Repeating(ThreadPoolExecutor):
    """Makes each call again, as a cluster does whose worker is lost with the first result."""

    def submit(self, fn: Any, /, *args: Any, **words: Any) -> Future[Any]:
        def twice() -> Any:
            fn(*args, **words)
            return fn(*args, **words)

        return super().submit(twice)


# Finding out what there is to do


def test_again_nothing_is_done_and_little_is_asked(cloud: Any, zoo: Path, batches: Any) -> None:
    url = cloud.put(zoo, "zoo")
    assert batches.run(url, cloud.url("out")) == (4, 0, 0)
    before = cloud.objects("out/")
    assert set(before) == {*batches.outputs(), f"out/{LEDGER}"}
    batches.requests()
    assert batches.run(url, cloud.url("out")) == (0, 4, 0)
    kinds = batches.requests()
    assert (kinds.count("list"), kinds.count("object")) == (2, 1)  # README.md is looked into
    assert len(kinds) <= 10
    assert cloud.objects("out/") == before


def test_names_are_believed_and_others_looked_into(
    cloud: Any, batches: Any, zoo: Path, flags: ConvertOptions
) -> None:
    (zoo / "notes").mkdir()
    for number in range(40):
        (zoo / "notes" / f"{number}.txt").write_text("no model")
    shutil.copy(zoo / "team1" / "npz_file" / "model.npz", zoo / "notes" / "weights")
    url = cloud.put(zoo, "zoo")
    cloud.client.put_object(Bucket=cloud.bucket, Key="zoo/notes/", Body=b"")
    there = plan_jobs(place_of(url), Path("out"), flags)
    assert batches.requests().count("object") in (41, 42)  # the last is noted a little late
    here = plan_jobs(zoo, Path("out"), flags)
    assert [each.target for each in there.jobs] == [each.target for each in here.jobs]
    assert [each.nbytes for each in there.jobs] == [each.nbytes for each in here.jobs]
    assert [each.source for each in there.jobs] == [
        each.source.replace(str(zoo), url) for each in here.jobs
    ]
    assert len(there.skipped) == len(here.skipped) == 41
    assert [each.reason for each in there.skipped] == [each.reason for each in here.skipped]


@pytest.mark.parametrize("latest", [False, True])
def test_models_of_all_kinds_are_found_as_on_a_disk(
    latest: bool, cloud: Any, samples: Path, flags: ConvertOptions
) -> None:
    url = cloud.put(samples, "zoo")
    there = plan_jobs(place_of(url), Path("out"), flags, latest=latest, name="{parent}/{name}")
    here = plan_jobs(samples, Path("out"), flags, latest=latest, name="{parent}/{name}")
    assert [(each.target, each.nbytes) for each in there.jobs] == [
        (each.target, each.nbytes) for each in here.jobs
    ]
    assert {each.path.replace(url, str(samples)) for each in there.skipped} == {
        each.path for each in here.skipped
    }


def test_what_is_written_below_the_source_is_no_source(cloud: Any, zoo: Path, batches: Any) -> None:
    url = cloud.put(zoo, "out")
    assert batches.run(url, f"{url}/copies") == (4, 0, 0)
    assert batches.run(url, f"{url}/copies/") == (0, 4, 0)


def test_where_nothing_can_be_found_is_said(cloud: Any, flags: ConvertOptions) -> None:
    with pytest.raises(NotRecognisedError, match="nothing lies there"):
        plan_jobs(place_of(cloud.url("zoo")), Path("out"), flags)
    with pytest.raises(NotRecognisedError, match="no listings") as caught:
        plan_jobs(place_of(f"{cloud.endpoint}/zoo"), Path("out"), flags)
    assert "a list" in str(caught.value.hint)
    with pytest.raises(UsageError, match="the same folder"):
        plan_jobs(place_of(cloud.url("zoo/")), place_of(cloud.url("zoo")), flags)
    with pytest.raises(UsageError, match="is a file of this machine"):
        place_of("file:///zoo")


def test_what_is_missing_or_changed_is_done(cloud: Any, zoo: Path, batches: Any) -> None:
    url = cloud.put(zoo, "zoo")
    batches.run(url, cloud.url("out"))
    gone, other, *_ = batches.outputs()
    cloud.client.delete_object(Bucket=cloud.bucket, Key=gone)
    cloud.client.put_object(Bucket=cloud.bucket, Key=other, Body=b"edited by somebody")
    assert batches.run(url, cloud.url("out")) == (2, 2, 0)
    source = zoo / "team1" / "npz_file" / "model.npz"
    with source.open("ab") as file:
        file.write(b"\0")  # the reader may not like it, but it is another file
    cloud.put(source, "zoo/team1/npz_file/model.npz")
    done, unchanged, failed = batches.run(url, cloud.url("out"))
    assert (done + failed, unchanged) == (1, 3)


def test_copies_of_outputs_are_read_once_and_believed(cloud: Any, zoo: Path, batches: Any) -> None:
    """A multipart copy has another tag, and a copy from a disk none that is known."""
    batches.run(zoo, cloud.url("out"))
    key = f"out/{LEDGER}"
    lines = [json.loads(line) for line in cloud.objects()[key].splitlines() if line]
    for row in lines:
        for file in row.get("files", ()):
            file.pop("mark")
    body = "".join(json.dumps(row) + "\n" for row in lines).encode()
    cloud.client.put_object(Bucket=cloud.bucket, Key=key, Body=body)
    assert batches.run(zoo, cloud.url("out")) == (0, 4, 0)
    assert len([row for row in batches.rows("done") if row.get("checked")]) == 4
    batches.requests()
    assert batches.run(zoo, cloud.url("out")) == (0, 4, 0)
    assert batches.requests().count("object") == 0


# Failures


def test_failures_are_told_again_and_tried_again_when_asked(
    cloud: Any, zoo: Path, batches: Any
) -> None:
    (zoo / "torn.npz").write_bytes(b"PK\x03\x04torn")
    url = cloud.put(zoo, "zoo")
    assert batches.run(url, cloud.url("out")) == (4, 0, 1)
    assert batches.run(url, cloud.url("out")) == (0, 4, 1)
    assert len(batches.rows("failed")) == 1
    assert batches.run(url, cloud.url("out"), replace(FAST, retry_failed=True)) == (0, 4, 1)
    (first, second) = batches.rows("failed")
    assert first["source"] == second["source"] == f"{url}/torn.npz"
    assert first["exit_code"] == 4
    assert first["error"].startswith(f"{url}/torn.npz: ")


def test_what_nobody_here_wrote_is_left_alone_for_good(cloud: Any, zoo: Path, batches: Any) -> None:
    key = "out/team1/npz_file/model.safetensors"
    cloud.client.put_object(Bucket=cloud.bucket, Key=key, Body=b"mine")
    for how in (FAST, replace(FAST, retry_failed=True)):
        assert batches.run(zoo, cloud.url("out"), how)[2] == 1
        assert cloud.objects()[key] == b"mine"
    (row, _) = batches.rows("failed")
    assert (row["exit_code"], row["hint"]) == (2, "replace it with --overwrite")


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("fault", ["503", "500", "drop", "cut"])
def test_faults_lose_nothing(fault: str, cloud: Any, zoo: Path, batches: Any) -> None:
    url = cloud.put(zoo, "zoo")
    chance = random.Random(1)
    verbs = ("GET", "HEAD") if fault == "cut" else ("GET", "HEAD", "PUT")
    cloud.proxy.fault = lambda verb, _: fault if verb in verbs and chance.random() < 0.1 else None
    with suppress(ConvertError):  # the lock, or the plan, may fail for good
        batches.run(url, cloud.url("out"))
    cloud.proxy.fault = lambda _verb, _path: None
    again = batches.run(url, cloud.url("out"), replace(FAST, retry_failed=True))
    assert again[0] + again[1] == 4
    batches.check(zoo)
    assert cloud.unfinished() == []


@pytest.mark.usefixtures("hurried")
def test_what_may_pass_is_tried_again_later(cloud: Any, zoo: Path, batches: Any) -> None:
    url = cloud.put(zoo, "zoo")
    left = [8]

    def fault(verb: str, path: str) -> str | None:
        if verb == "PUT" and path.endswith("npz_file/model.safetensors") and left[0] > 0:
            left[0] -= 1
            return "503"
        return None

    cloud.proxy.fault = fault
    assert batches.run(url, cloud.url("out")) == (4, 0, 0)
    attempts = [row["attempt"] for row in batches.rows("started") if "npz_file" in row["target"]]
    assert attempts == [1, 2, 3]
    batches.check(zoo)


def test_what_a_cluster_does_twice_is_done(cloud: Any, zoo: Path, flags: ConvertOptions) -> None:
    key = "out/team1/npz_file/model.safetensors"
    cloud.client.put_object(Bucket=cloud.bucket, Key=key, Body=b"mine")
    root = place_of(cloud.url("out"))
    with Repeating(2) as pool, open_ledger(root, None, cloud.endpoint, print) as ledger:
        assert counts(run_batch(plan_jobs(zoo, root, flags), ledger, pool, FAST)) == (3, 0, 1)
    assert cloud.objects()[key] == b"mine"


def test_a_list_may_lie_in_a_store_too(
    cloud: Any, batches: Any, zoo: Path, tmp_path: Path, flags: ConvertOptions
) -> None:
    url, out = cloud.put(zoo, "zoo"), cloud.url("out")
    models = [
        {"source": "team1/npz_file/model.npz", "target": f"{out}/one.safetensors"},
        {"source": f"{url}/team0/tf1_adam_ema/model.ckpt-7"},
        {"source": str(zoo / "team0" / "tf_module_object"), "target": "three.safetensors"},
        {"source": "nothing.npz", "target": "four.safetensors"},
    ]
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(map(json.dumps, models)))
    listed = cloud.put(path, "zoo/list.jsonl")
    jobs = plan_list(place_of(listed), place_of(out), flags).jobs
    assert (jobs[3].source, jobs[3].nbytes) == (f"{url}/nothing.npz", 0)
    assert min(job.nbytes for job in jobs[:3]) > 0
    with batches.start(listed, out, "--to", "safetensors", "--quiet") as process:
        code, _, messages = batches.ended(process)
    assert code == 7
    assert f"failed: {url}/nothing.npz: does not exist" in messages
    assert set(batches.outputs()) == {
        "out/one.safetensors",
        "out/team0/tf1_adam_ema/model.ckpt-7.safetensors",
        "out/three.safetensors",
    }


def test_a_list_names_models_of_a_server_without_listings(
    cloud: Any, samples: Path, tmp_path: Path, flags: ConvertOptions
) -> None:
    handler = partial(SimpleHTTPRequestHandler, directory=str(samples))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        site = f"http://127.0.0.1:{server.server_address[1]}"
        lines = [
            {"source": f"{site}/npz_file/model.npz"},
            {"source": f"{site}/nothing.npz"},
        ]
        (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
        plan = plan_list(tmp_path / "list.jsonl", place_of(cloud.url("out")), flags)
        server.shutdown()
        thread.join()
    first, second = plan.jobs
    assert first.target == cloud.url("out/npz_file/model.safetensors")
    assert first.nbytes == (samples / "npz_file" / "model.npz").stat().st_size
    assert (second.nbytes, second.fingerprint) == (0, "")


def test_other_schemes_have_ledgers_too(zoo: Path, flags: ConvertOptions) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.put(f"{zoo}/", "/zoo/in/", recursive=True)
    flags = replace(flags, read=ReadOptions())
    root = place_of("memory://zoo/out")
    try:
        for expected in ((4, 0, 0), (0, 4, 0)):
            plan = plan_jobs(place_of("memory://zoo/in"), root, flags)
            with ThreadPoolExecutor(2) as pool, open_ledger(root, None, None, print) as ledger:
                assert counts(run_batch(plan, ledger, pool, FAST)) == expected
        found = system.find("/zoo/out")
        assert len(found) == 5
        assert f"/zoo/out/{LEDGER}" in found
    finally:
        system.rm("/zoo", recursive=True)
