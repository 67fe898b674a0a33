"""Ledgers in a store: one writer at a time, sudden ends, parts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import NotRecognisedError, UsageError
from tensorferry.pipeline.batch import journal, lease
from tensorferry.pipeline.batch.ledger import LEDGER
from tensorferry.pipeline.batch.ledgers import ledgers_at, merge_at, open_ledger
from tensorferry.pipeline.batch.places import place_of
from tensorferry.pipeline.batch.run import BatchListener, BatchOptions, Totals

FAST = BatchOptions(jobs=2, patience=0.01)
LEDGER_FILES = "tensorferry-ledger"
# Folders of `sample_models` that are one model each.
MODELS = ("tf_module_object", "npz_file", "tf1_adam_ema", "safetensors_file")


class Heard(BatchListener):
    """Does something about each row."""

    def __init__(self, react: Callable[[dict[str, Any]], object]) -> None:
        self._react = react

    def changed(self, row: dict[str, Any], totals: Totals) -> None:
        del totals
        self._react(row)


# One writer at a time


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 0.6)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(journal, "PUT_SECONDS", 0.05)


LOCK = "out/tensorferry-ledger.d/all/lock.json"


def test_a_second_batch_is_refused(cloud: Any, zoo: Path, batches: Any) -> None:
    root = place_of(cloud.url("out"))
    with open_ledger(root, None, cloud.endpoint, print):
        with pytest.raises(UsageError, match="another batch is at work here") as caught:
            batches.run(zoo, root)
        assert caught.value.path == cloud.url(LOCK)
        assert f"process {os.getpid()} of " in str(caught.value.got)
    assert batches.run(zoo, root) == (4, 0, 0)
    assert LOCK not in cloud.objects()


@pytest.mark.usefixtures("quick")
def test_a_batch_of_another_machine_is_told_by_its_signs_of_life(
    cloud: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, said = place_of(cloud.url("out")), list[str]()
    with open_ledger(root, None, cloud.endpoint, print):
        with monkeypatch.context() as elsewhere:
            elsewhere.setattr(lease, "_machine", lambda: "another one")
            with pytest.raises(UsageError, match="another batch is at work here"):
                open_ledger(root, None, cloud.endpoint, said.append)
        data = cloud.objects()[LOCK]
    assert said[0].startswith("waiting for a sign of life of ")
    owner = json.loads(data) | {"machine": "a third one", "pid": 1}
    cloud.client.put_object(Bucket=cloud.bucket, Key=LOCK, Body=json.dumps(owner).encode())
    with open_ledger(root, None, cloud.endpoint, said.append):
        assert said[-1].endswith(" that was at work here has died")
    assert cloud.objects() == {}


@pytest.mark.usefixtures("hurried")
def test_a_store_without_conditions_is_looked_at_before(
    cloud: Any, zoo: Path, batches: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CONDITIONAL_PUT", "disabled")
    root = place_of(cloud.url("out"))
    with open_ledger(root, None, cloud.endpoint, print), pytest.raises(UsageError, match="at work"):
        batches.run(zoo, root)
    assert batches.run(zoo, root) == (4, 0, 0)


@pytest.mark.usefixtures("quick")
def test_who_was_succeeded_stops(cloud: Any, zoo: Path, batches: Any) -> None:
    def succeed(row: dict[str, Any]) -> None:
        if row["event"] == "done":
            cloud.client.put_object(Bucket=cloud.bucket, Key=LOCK, Body=b'{"run": "another"}')
            time.sleep(0.4)

    with pytest.raises(UsageError, match="another batch has taken over here"):
        batches.run(zoo, cloud.url("out"), replace(FAST, jobs=1), Heard(succeed))
    found = cloud.objects("out/")
    assert found[LOCK] == b'{"run": "another"}'
    assert f"out/{LEDGER}" not in found
    assert any(key.endswith("-000001.jsonl") for key in found)
    cloud.client.delete_object(Bucket=cloud.bucket, Key=LOCK)
    done, unchanged, failed = batches.run(zoo, cloud.url("out"))
    assert (done + unchanged, failed) == (4, 0)
    batches.check(zoo)


# Sudden ends


def test_a_batch_that_was_killed_is_resumed(
    cloud: Any, batches: Any, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tmp_path / "zoo"
    for number in range(10):
        shutil.copytree(samples / MODELS[number % len(MODELS)], zoo / str(number))
    url = cloud.put(zoo, "zoo")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    words = (url, cloud.url("out"), "--to", "safetensors", "--jobs", "2", "--quiet")
    chance = random.Random(2)
    for least, number in ((1, signal.SIGKILL), (3, signal.SIGINT), (5, signal.SIGKILL)):
        # Not before this process has stored something: at its start it cannot end well yet.
        enough = max(least, len(batches.names()) + 1)
        with batches.start(*words) as process:
            while process.poll() is None and len(batches.names()) < enough:
                time.sleep(0.01)
            time.sleep(chance.random() * 0.1)
            process.send_signal(number)
            code = batches.ended(process)[0]
        assert code == (130 if number == signal.SIGINT else -number)
        assert number == signal.SIGKILL or LOCK not in cloud.objects()
    with batches.start(*words) as process:
        code, _, messages = batches.ended(process)
    assert (code, messages) == (0, "")
    done = [row["target"] for row in batches.rows("done")]
    assert len({*done}) == len(batches.outputs()) == 10
    batches.check(zoo)
    assert set(cloud.objects("out/")) == {*batches.outputs(), f"out/{LEDGER}"}
    assert [*(tmp_path / "tmp").iterdir()] == []


def test_what_has_lost_its_row_is_done_again(cloud: Any, zoo: Path, batches: Any) -> None:
    """As after a power cut in the second between an output and its row."""
    claims: dict[str, bytes] = {}

    def remember(row: dict[str, Any]) -> None:
        if row["event"] == "done":
            claims.update(
                (key, data) for key, data in cloud.objects("out/").items() if "claims" in key
            )

    assert batches.run(zoo, cloud.url("out"), FAST, Heard(remember)) == (4, 0, 0)
    cloud.client.delete_object(Bucket=cloud.bucket, Key=f"out/{LEDGER}")
    assert batches.run(zoo, cloud.url("out")) == (
        0,
        0,
        4,
    )  # for all it knows they are somebody else's
    cloud.client.delete_object(Bucket=cloud.bucket, Key=f"out/{LEDGER}")
    for key, data in claims.items():
        cloud.client.put_object(Bucket=cloud.bucket, Key=key, Body=data)
    assert batches.run(zoo, cloud.url("out")) == (4, 0, 0)
    batches.check(zoo)


def test_without_a_ledger_there_is_no_status(cloud: Any) -> None:
    with (
        pytest.raises(NotRecognisedError, match="no ledger of a batch"),
        ledgers_at(place_of(cloud.url("out")), cloud.endpoint),
    ):
        pytest.fail("there is none")


# The command line


def test_parts_are_done_merged_and_shown(cloud: Any, batches: Any, zoo: Path) -> None:
    (zoo / "torn.npz").write_bytes(b"PK\x03\x04torn")
    url, out = cloud.put(zoo, "zoo"), cloud.url("out")
    words = (url, out, "--to", "safetensors", "--quiet", "--shard")
    with batches.start(*words, "1/2") as first, batches.start(*words, "2/2") as second:
        codes = sorted([batches.ended(first)[0], batches.ended(second)[0]])
    assert codes == [0, 7]
    with batches.start("merge", out) as process:
        assert batches.ended(process) == (0, "", f"{out}: 2 ledgers merged\n")
    ledgers = {key for key in cloud.objects("out/") if LEDGER_FILES in key}
    assert ledgers == {f"out/{LEDGER}"}
    with batches.start("status", out, "--json") as process:
        code, text, _ = batches.ended(process)
    status = json.loads(text)
    assert (code, status["done"], status["failed"], status["unfinished"]) == (7, 4, 1, 0)
    assert status["failures"][0]["source"] == f"{url}/torn.npz"
    with pytest.raises(NotRecognisedError, match="no ledgers of parts"):
        merge_at(place_of(out), cloud.endpoint)
