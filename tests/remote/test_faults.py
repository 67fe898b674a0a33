"""Faults that pass are survived; those that stay leave nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorferry.converters import stores
from tensorferry.converters.errors import ConvertError
from tensorferry.converters.registry import ReadOptions, WriteOptions
from tensorferry.pipeline.convert import ConvertOptions, Listener, convert


def options(cloud: Any, *, write: WriteOptions | None = None, **more: Any) -> ConvertOptions:
    read = ReadOptions(endpoint_url=cloud.endpoint)
    return ConvertOptions(read=read, write=write or WriteOptions(), **more)


@pytest.fixture
def medium(tmp_path: Path) -> Path:
    """Return a model of 4 MB, which is read in some ranges."""
    path = tmp_path / "medium.npz"
    values = np.arange(1 << 18, dtype="f4")
    np.savez(path, **{f"w{n}": values + n for n in range(4)})  # type: ignore[arg-type]
    return path


def nth(wanted: int, fault: str, method: str = "PUT") -> Callable[[str, str], str | None]:
    """Return what fails the nth request of a kind, and no other."""
    seen = iter(range(1 << 30))
    return lambda verb, _: fault if verb == method and next(seen) == wanted else None


def from_nth(
    wanted: int, fault: str, verbs: tuple[str, ...] = ("PUT", "POST")
) -> Callable[[str, str], str | None]:
    """Return what fails all uploads from the nth on."""
    seen = iter(range(1 << 30))
    return lambda verb, _: fault if verb in verbs and next(seen) >= wanted else None


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(
    ("fault", "number"), [("503", 0), ("503", 2), ("500", 2), ("drop", 0), ("drop", 2), ("slow", 2)]
)
def test_an_upload_survives_a_fault(fault: str, number: int, cloud: Any, large: Path) -> None:
    cloud.proxy.fault = nth(number, fault)
    convert(large, cloud.url("large.npz"), options(cloud, verify=True))
    assert set(cloud.objects()) == {"large.npz"}
    assert cloud.unfinished() == []


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("fault", ["503", "500", "drop", "cut", "slow"])
def test_reading_survives_faults(fault: str, cloud: Any, medium: Path, tmp_path: Path) -> None:
    url = cloud.put(medium, "medium.npz")
    numbers: Iterator[int] = iter(range(1 << 30))
    cloud.proxy.fault = lambda verb, _: fault if verb == "GET" and next(numbers) % 5 == 3 else None
    convert(url, tmp_path / "copy.npz", options(cloud))
    convert(medium, tmp_path / "local.npz")
    assert (tmp_path / "copy.npz").read_bytes() == (tmp_path / "local.npz").read_bytes()
    assert next(numbers) > 5


# Faults that stay


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("fault", ["503", "drop"])
@pytest.mark.parametrize("number", [0, 1, 3])
def test_nothing_partial_is_seen_after_a_failure(
    fault: str, number: int, cloud: Any, large: Path
) -> None:
    cloud.proxy.fault = from_nth(number, fault)
    with pytest.raises(ConvertError, match="cannot be written") as caught:
        convert(large, cloud.url("out/large.ckpt"), options(cloud))
    assert str(caught.value.path).startswith(cloud.url("out/large.ckpt"))
    assert caught.value.exit_code == 5
    assert cloud.objects() == {}
    # Whoever does not hear that an upload was begun cannot abort it; it holds nothing.
    begun = [] if (fault, number) != ("drop", 0) else cloud.unfinished()
    assert not any(cloud.parts(each) for each in begun)
    assert cloud.unfinished() == begun


@pytest.mark.usefixtures("hurried")
def test_what_cannot_be_taken_back_is_named(cloud: Any, samples: Path) -> None:
    cloud.proxy.fault = from_nth(2, "500")
    with pytest.raises(ConvertError, match="cannot be written") as caught:
        convert(samples / "tf1_adam_ema", cloud.url("out/model.ckpt"), options(cloud))
    for key in cloud.objects():
        assert cloud.url(key) in str(caught.value.hint)


@pytest.mark.usefixtures("hurried")
def test_files_that_were_sent_go_when_a_later_one_fails(cloud: Any, samples: Path) -> None:
    cloud.proxy.fault = from_nth(2, "500", ("PUT",))
    with pytest.raises(ConvertError, match="cannot be written"):
        convert(samples / "tf1_adam_ema", cloud.url("out/model.ckpt"), options(cloud))
    assert any(each.method == "PUT" for each in cloud.proxy.requests)
    assert cloud.objects() == {}


def test_what_does_not_read_back_equal_is_taken_back(cloud: Any, samples: Path) -> None:
    class Vandal(Listener):
        """Changes the object between upload and verification."""

        def advanced(self, nbytes: int) -> None:
            del nbytes
            if "out.npz" in cloud.objects():
                data = bytearray(cloud.objects()["out.npz"])
                data[200] ^= 1
                cloud.client.put_object(Bucket=cloud.bucket, Key="out.npz", Body=bytes(data))

    with pytest.raises(ConvertError) as caught:
        convert(
            samples / "tf1_adam_ema", cloud.url("out.npz"), options(cloud, verify=True), Vandal()
        )
    assert caught.value.exit_code == 6
    assert cloud.objects() == {}


def test_an_interrupt_leaves_nothing(
    cloud: Any, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "PARTS_AT_ONCE", 1)

    class Impatient(Listener):
        def advanced(self, nbytes: int) -> None:
            del nbytes
            if any("partNumber=" in each.path for each in cloud.proxy.requests):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(large, cloud.url("large.npz"), options(cloud), Impatient())
    assert cloud.objects() == {}
    assert cloud.unfinished() == []


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("fault", "what"), [("503", "reading failed"), ("cut", "reading failed")])
def test_reading_gives_up_with_a_clear_error(
    fault: str, what: str, cloud: Any, medium: Path, tmp_path: Path
) -> None:
    url = cloud.put(medium, "medium.npz")
    cloud.proxy.fault = lambda verb, path: (
        fault if verb == "GET" and "list-type" not in path else None
    )
    with pytest.raises(ConvertError, match=what) as caught:
        convert(url, tmp_path / "copy.npz", options(cloud))
    assert caught.value.exit_code == 4
    assert caught.value.path == url
    assert caught.value.hint
    assert not (tmp_path / "copy.npz").exists()


@pytest.mark.usefixtures("hurried")
def test_a_server_that_is_not_there_is_named(cloud: Any, tmp_path: Path) -> None:
    read = ReadOptions(endpoint_url="http://127.0.0.1:9")
    with pytest.raises(ConvertError, match="reading failed: HTTP error"):
        convert(cloud.url("model.npz"), tmp_path / "out.npz", ConvertOptions(read=read))
