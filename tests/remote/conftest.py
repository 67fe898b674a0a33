"""An S3 server on loopback, and between it and us a proxy that counts and misbehaves on demand."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from tensorferry.converters import open_tensors, stores
from tensorferry.converters.digests import digest
from tensorferry.converters.registry import ReadOptions
from tensorferry.pipeline.batch.ledgers import open_ledger
from tensorferry.pipeline.batch.places import place_of
from tensorferry.pipeline.batch.plan import plan_jobs
from tensorferry.pipeline.batch.run import BatchListener, BatchOptions, run_batch
from tensorferry.pipeline.convert import ConvertOptions

pytest.importorskip("obstore", reason="the extra `remote` is not installed")
boto3 = pytest.importorskip("boto3", reason="moto's server is not installed")

NAMES = count()
# Folders of `sample_models` that are one model each.
MODELS = ("tf_module_object", "npz_file", "tf1_adam_ema", "safetensors_file")
LEDGERS = "tensorferry-ledger"
START = "import sys; from tensorferry.pipeline.entry import main; sys.exit(main())"
SLOW_DOWN = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Slow</Message></Error>"


class Request(NamedTuple):
    """A request that passed the proxy, and how many bytes of body went back."""

    method: str
    path: str
    range: str | None
    sent: int


# Gets method and path of a request; returns the name of a fault or None.
Fault = Callable[[str, str], str | None]


class Proxy(ThreadingHTTPServer):
    """Passes requests on to the server; knows what passed."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.requests: list[Request] = []
        self.fault: Fault = lambda _method, _path: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def sent(self) -> int:
        """Number of bytes of all bodies that went back."""
        return sum(each.sent for each in self.requests)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: connections are cut on purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault(self.command, self.path)
        if fault in ("503", "500"):
            self._answer(int(fault), {}, SLOW_DOWN if fault == "503" else b"")
            return
        if fault == "slow":
            time.sleep(1.5)
        upstream = HTTPConnection("127.0.0.1", self.server.upstream)
        try:
            upstream.request(self.command, self.path, body or None, dict(self.headers))
            answer = upstream.getresponse()
            data = answer.read()
            headers = dict(answer.getheaders())
        finally:
            upstream.close()
        self._answer(answer.status, headers, data, cut=fault == "cut", drop=fault == "drop")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def _answer(
        self,
        status: int,
        headers: dict[str, str],
        data: bytes,
        *,
        cut: bool = False,
        drop: bool = False,
    ) -> None:
        if drop:
            self._reset()
            return
        self.send_response(status)
        skipped = ("transfer-encoding", "connection", "content-length", "server", "date")
        for name, value in headers.items():
            if name.lower() not in skipped:
                self.send_header(name, value)
        length = headers.get("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(data)))
        self.end_headers()
        body = b"" if self.command == "HEAD" else data[: len(data) // 2] if cut else data
        self.wfile.write(body)
        self.server.requests.append(
            Request(self.command, self.path, self.headers.get("Range"), len(body))
        )
        if cut:
            self._reset()

    def _reset(self) -> None:
        """Close the connection with a reset and not with an end."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.wfile.flush()
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@dataclass
class Cloud:
    """A bucket of the server, seen directly and through the proxy."""

    client: Any
    proxy: Proxy
    bucket: str

    @property
    def endpoint(self) -> str:
        return self.proxy.url

    def url(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{key}"

    def put(self, source: Path, key: str) -> str:
        """Store a file, or all files of a folder; return the URL."""
        if source.is_file():
            self._put(source, key)
            return self.url(key)
        for path in sorted(source.rglob("*")):
            if path.is_file():
                name = path.relative_to(source).as_posix()
                self._put(path, f"{key}/{name}")
        return self.url(key)

    def _put(self, path: Path, key: str) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=path.read_bytes())

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Return what is there, by key."""
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", [])
        keys = [each["Key"] for each in found]
        return {
            key: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys
        }

    def unfinished(self) -> list[Any]:
        """Return the multipart uploads that were begun and neither completed nor aborted."""
        return list(self.client.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []))

    def parts(self, upload: Any) -> list[Any]:
        """Return the parts of an unfinished upload."""
        found = self.client.list_parts(
            Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"]
        )
        return list(found.get("Parts", []))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    """Start the S3 server; return its port."""
    pytest.importorskip("moto", reason="moto's server is not installed")
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(words, env=os.environ | {"PYTHONWARNINGS": ""}, **quiet) as process:
        try:
            _wait_for(f"http://127.0.0.1:{port}/moto-api/", process)
            yield port
        finally:
            process.terminate()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < end:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the server does not start")


@pytest.fixture(scope="session")
def client(server: int) -> Iterator[Any]:
    """Return what talks to the server directly; making one takes long."""
    key = {"aws_access_key_id": "key", "aws_secret_access_key": "secret"}
    made = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{server}", region_name="us-east-1", **key
    )
    yield made
    made.close()


@pytest.fixture
def cloud(server: int, client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    """Return a new bucket behind a proxy; credentials are in the environment."""
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    bucket = f"zoo-{next(NAMES)}"
    client.create_bucket(Bucket=bucket)
    proxy = Proxy(server)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
    thread.start()
    yield Cloud(client, proxy, bucket)
    proxy.shutdown()
    proxy.server_close()
    thread.join()


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make retries follow one another at once, and be few."""
    monkeypatch.setattr(stores, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(stores, "ATTEMPTS", 3)
    monkeypatch.setattr(stores, "RETRIES", 2)
    monkeypatch.setattr(stores, "READ_SECONDS", 1)
    monkeypatch.setattr(stores, "PART_SECONDS", 1)


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a model of 21 MB, which is sent in five parts and more."""
    monkeypatch.setattr(stores, "PART_BYTES", 5 << 20)  # the least that S3 takes
    path = tmp_path / "large.npz"
    values = np.arange(1 << 20, dtype="f4")
    np.savez(path, **{f"w{n}": values + n for n in range(5)})  # type: ignore[arg-type]
    return path


# Batches


@pytest.fixture
def zoo(tmp_path: Path, samples: Path) -> Path:
    """Return a folder with four models of several formats, and a file that is none."""
    for number, name in enumerate(MODELS):
        shutil.copytree(samples / name, tmp_path / "zoo" / f"team{number % 2}" / name)
    (tmp_path / "zoo" / "README.md").write_text("A zoo.\n")
    return tmp_path / "zoo"


@pytest.fixture
def flags(cloud: Cloud) -> ConvertOptions:
    read = ReadOptions(endpoint_url=cloud.endpoint)
    return ConvertOptions(target_format="safetensors", read=read, jobs=1, verify=True)


@dataclass
class Batches:
    """Runs batches, in this process or in their own, and looks at what they have left in `out`."""

    cloud: Cloud
    flags: ConvertOptions

    def run(
        self,
        source: object,
        target: object,
        how: BatchOptions | None = None,
        listener: BatchListener | None = None,
    ) -> tuple[int, int, int]:
        """Plan and run a batch; return how many models were done, unchanged and failed."""
        how = how or BatchOptions(jobs=2, patience=0.01)
        root = place_of(str(target))
        plan = plan_jobs(place_of(str(source)), root, self.flags)
        with (
            ThreadPoolExecutor(2) as threads,
            open_ledger(root, None, self.cloud.endpoint, print) as ledger,
        ):
            totals = run_batch(plan, ledger, threads, how, listener)
        return totals.done, totals.unchanged, totals.failed

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start `convert batch` with these words."""
        endpoint = ("--endpoint-url", self.cloud.endpoint)
        return subprocess.Popen(
            [sys.executable, "-c", START, "batch", *words, *endpoint],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, process: subprocess.Popen[str]) -> tuple[int, str, str]:
        """Wait for a process; return its exit code, output and messages."""
        out, messages = process.communicate(timeout=60)
        return process.returncode, out, messages

    def requests(self) -> list[str]:
        """Return the requests since the last call: what they were about, in a word."""
        kinds = []
        for each in self.cloud.proxy.requests:
            is_ledger = LEDGERS in each.path or each.path.endswith("?delete")  # only those go
            about = "ledger" if is_ledger else "object"
            kinds.append("list" if "list-type" in each.path else about)
        self.cloud.proxy.requests.clear()
        return kinds

    def names(self) -> list[str]:
        """Return the keys of outputs, also while a batch is at work."""
        client, bucket = self.cloud.client, self.cloud.bucket
        found = client.list_objects_v2(Bucket=bucket, Prefix="out/").get("Contents", [])
        return [each["Key"] for each in found if LEDGERS not in each["Key"]]

    def outputs(self) -> dict[str, bytes]:
        """Return what was written, by key."""
        return {key: data for key, data in self.cloud.objects("out/").items() if LEDGERS not in key}

    def rows(self, event: str) -> list[dict[str, Any]]:
        """Return the rows of the ledger with this event."""
        lines = self.cloud.objects("out/")[f"out/{LEDGERS}.jsonl"].splitlines()
        return [row for row in map(json.loads, filter(None, lines)) if row["event"] == event]

    def check(self, zoo: Path) -> None:
        """See that every output is there and holds what its source does."""
        done = self.rows("done")
        assert {f"out/{file['path']}" for row in done for file in row["files"]} == {*self.outputs()}
        read = ReadOptions(endpoint_url=self.cloud.endpoint)
        for row in done:
            local = row["source"].replace(self.cloud.url("zoo"), str(zoo))
            with open_tensors(local) as source:
                expected = {name: digest(source[name]) for name in source}
            with open_tensors(self.cloud.url(f"out/{row['target']}"), read) as copy:
                assert {name: digest(copy[name]) for name in copy} == expected


@pytest.fixture
def batches(cloud: Cloud, flags: ConvertOptions) -> Batches:
    return Batches(cloud, flags)
