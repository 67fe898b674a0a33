"""Time conversions out of a store on this machine against a plain GET of the same object.

The store is a bare one of S3's kind, made of the standard library: it lists and sends ranges of one
folder by `sendfile`, in a process of its own. The sides take turns, and write to a file.

    python benches/remote.py [MEGABYTES ROUNDS]
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tensorferry.pipeline.convert import convert

BUCKET = "zoo"
ETAG = '"fixed"'


class Store(BaseHTTPRequestHandler):
    """Lists the objects of the folder, and sends them whole or by ranges."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder = Path()

    def do_HEAD(self) -> None:
        """Tell of an object."""
        self._object(body=False)

    def do_GET(self) -> None:
        """Send an object or a listing."""
        if "list-type" in self.path:
            self._listing()
        else:
            self._object(body=True)

    def _listing(self) -> None:
        prefix = parse_qs(urlsplit(self.path).query).get("prefix", [""])[0]
        rows = [
            f"<Contents><Key>{escape(path.name)}</Key><Size>{path.stat().st_size}</Size>"
            f"<ETag>{escape(ETAG)}</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            "</Contents>"
            for path in sorted(self.folder.iterdir())
            if path.name.startswith(prefix)
        ]
        text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(rows)}"
        data = f"{text}</ListBucketResult>".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _object(self, *, body: bool) -> None:
        path = self.folder / unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
        size = path.stat().st_size
        wanted = self.headers.get("Range", "").removeprefix("bytes=")
        first, _, last = wanted.partition("-")
        start, end = (int(first), min(int(last) + 1, size)) if wanted else (0, size)
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        self.send_header("ETag", ETAG)
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.end_headers()
        self.wfile.flush()
        if body:
            with path.open("rb") as file:
                while start < end:
                    start += os.sendfile(
                        self.connection.fileno(), file.fileno(), start, end - start
                    )

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def serve(folder: str) -> None:
    """Serve a folder; print the port."""
    Store.folder = Path(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Store)
    print(server.server_address[1], flush=True)
    server.serve_forever()


def plain_get(url: str, target: Path) -> None:
    """Fetch an object by one request."""
    buffer = bytearray(1 << 20)
    with urllib.request.urlopen(url) as answer, target.open("wb", buffering=0) as file:
        while count := answer.readinto(buffer):
            file.write(memoryview(buffer)[:count])


def compare(folder: Path, megabytes: int, rounds: int) -> None:
    """Print the rates of both sides, each to a file beside what is served."""
    source, target = folder / "served" / "model.safetensors", folder / "out.safetensors"
    source.parent.mkdir()
    make(source, megabytes)
    words = [sys.executable, __file__, "--serve", str(source.parent)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
        os.environ |= {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": url, "AWS_ALLOW_HTTP": "true",
        }  # fmt: skip
        key = f"{BUCKET}/{source.name}"
        sides: dict[str, Callable[[], object]] = {
            "plain GET": lambda: plain_get(f"{url}/{key}", target),
            "convert s3://": lambda: convert(f"s3://{key}", target),
            "cp": lambda: shutil.copyfile(source, target),
        }
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        try:
            for _ in range(rounds):
                for side, run in sides.items():
                    began = time.perf_counter()
                    run()
                    seconds[side].append(time.perf_counter() - began)
                    target.unlink()
        finally:
            server.terminate()
    size = source.stat().st_size
    for side, times in seconds.items():
        middle = statistics.median(times)
        print(f"{side:<14}{middle:8.2f} s {size / middle / 1e6:8.0f} MB/s")


def make(path: Path, megabytes: int) -> None:
    """Write a model of tensors of 4 MB."""
    import numpy as np

    archive = path.with_suffix(".npz")
    count = megabytes // 4
    arrays = {f"layer_{n:04}/kernel": np.full((1000, 1000), n, "f4") for n in range(count)}
    np.savez(archive, **arrays)  # type: ignore[arg-type]
    convert(archive, path)
    archive.unlink()


def main() -> None:
    """Serve, or compare."""
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return
    megabytes, rounds = [int(word) for word in sys.argv[1:3]] or (300, 7)
    folder = Path(tempfile.mkdtemp(prefix="tensorferry-bench-"))
    try:
        compare(folder, megabytes, rounds)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
