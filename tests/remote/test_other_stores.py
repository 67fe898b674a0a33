"""Servers without listings, and schemes that fsspec knows."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters.errors import NotRecognisedError, UsageError
from tensorferry.converters.registry import ReadOptions
from tensorferry.pipeline.convert import ConvertOptions, convert


def options(cloud: Any, **more: Any) -> ConvertOptions:
    return ConvertOptions(read=ReadOptions(endpoint_url=cloud.endpoint, **more))


class _Ranges(SimpleHTTPRequestHandler):
    """Serves a folder, by ranges."""

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file() or "Range" not in self.headers:
            super().do_GET()
            return
        data = path.read_bytes()
        start, _, end = self.headers["Range"].removeprefix("bytes=").partition("-")
        part = data[int(start) : int(end) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def site(samples: Path) -> Iterator[str]:
    """Serve the samples by HTTP; return the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, directory=str(samples)))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    "model",
    [
        "safetensors_file/model.safetensors",
        "tf_keras_h5/model.h5",
        "tf1_multi_shard/model.ckpt-7",
        "tf1_multi_shard/model.ckpt-7.data-00001-of-00003",
        "tfjs_layers/model.json",
    ],
)
def test_a_server_without_listings_is_asked_for_what_is_implied(
    model: str, site: str, samples: Path, tmp_path: Path
) -> None:
    convert(samples / model, tmp_path / "local.npz")
    convert(f"{site}/{model}", tmp_path / "remote.npz")
    assert (tmp_path / "remote.npz").read_bytes() == (tmp_path / "local.npz").read_bytes()


def test_a_folder_of_a_server_without_listings_is_refused(site: str, tmp_path: Path) -> None:
    with pytest.raises(NotRecognisedError, match="no listings") as caught:
        convert(f"{site}/elsewhere/", tmp_path / "out.npz")
    assert "not its folder" in str(caught.value.hint)
    with pytest.raises(NotRecognisedError, match="gives no byte ranges"):  # a page of links
        convert(f"{site}/tf1_multi_shard/", tmp_path / "out.npz")
    with pytest.raises(UsageError, match="only read from"):
        convert(f"{site}/safetensors_file/model.safetensors", f"{site}/out.npz")
    with pytest.raises(UsageError, match="a URL with a query"):
        convert(f"{site}/model.npz?signature=x", tmp_path / "out.npz")


def test_other_schemes_are_those_of_fsspec(samples: Path, tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.put(f"{samples}/tf1_adam_ema/", "/zoo/tf1/", recursive=True)
    try:
        convert(samples / "tf1_adam_ema", tmp_path / "local.npz")
        convert("memory://zoo/tf1", "memory://zoo/out/copy.npz", ConvertOptions(verify=True))
        assert system.cat("/zoo/out/copy.npz") == (tmp_path / "local.npz").read_bytes()
        assert [each["name"] for each in system.ls("/zoo/out")] == ["/zoo/out/copy.npz"]
    finally:
        system.rm("/zoo", recursive=True)


def test_schemes_that_nobody_knows_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing://"):
        convert("nothing://there/model", tmp_path / "out.npz")
    with pytest.raises(UsageError, match="is a file of this machine"):
        convert("file:///model.npz", tmp_path / "out.npz")


def test_the_extra_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UsageError, match="needs obstore") as caught:
        convert("s3://bucket/model", tmp_path / "out.npz")
    assert "tensorferry[remote]" in str(caught.value.hint)


def test_reports_are_json(cloud: Any, samples: Path, tmp_path: Path) -> None:
    url = cloud.put(samples / "tf1_adam_ema", "tf1")
    report = convert(url, tmp_path / "out.npz", options(cloud))
    assert json.loads(json.dumps(report.json()))["target"]["path"] == str(tmp_path / "out.npz")


def test_a_profile_gives_credentials(
    cloud: Any, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    text = "[team]\naws_access_key_id = key\naws_secret_access_key = secret\n"
    (tmp_path / "credentials").write_text(text)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "team")
    url = cloud.put(samples / "safetensors_file", "zoo")
    convert(url, tmp_path / "out.npz", options(cloud))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(UsageError, match="nobody"):
        convert(url, tmp_path / "out2.npz", options(cloud))
    monkeypatch.setitem(sys.modules, "boto3", None)
    monkeypatch.delitem(sys.modules, "obstore.auth.boto3", raising=False)
    with pytest.raises(UsageError, match="needs boto3"):
        convert(url, tmp_path / "out3.npz", options(cloud))


def test_updates_come_from_stores_too(cloud: Any, samples: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "tuned.npz", **{"dense/bias": np.zeros(8, "f4")})
    url = cloud.put(tmp_path / "tuned.npz", "tuned.npz")
    read = ReadOptions(endpoint_url=cloud.endpoint)
    source = samples / "tf1_adam_ema"
    report = convert(source, tmp_path / "out.npz", ConvertOptions(read=read, updates=(url,)))
    assert report.counts["updated"] == 1
