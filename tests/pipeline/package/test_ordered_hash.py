from __future__ import annotations

import hashlib
import random
import threading

import pytest
from tensorferry.converters.digests import hasher
from tensorferry.converters.dtypes import DType
from tensorferry.converters.tensors import TensorSpec
from tensorferry.converters.threads import run_all
from tensorferry.pipeline.package.ordered_hash import FileHash, Held, StoppedError

DATA = random.Random(7).randbytes(100_000)
SPECS = {
    "first": (8, TensorSpec(DType.FLOAT32, (25, 100))),
    "empty": (10_008, TensorSpec(DType.FLOAT32, (0, 3))),
    "behind a gap": (20_000, TensorSpec(DType.UINT8, (1,))),
    "last": (20_001, TensorSpec(DType.UINT8, (79_999,))),
}


def held() -> list[Held]:
    return [Held(offset, spec, name) for name, (offset, spec) in reversed(SPECS.items())]


def digest_of(name: str) -> str:
    offset, spec = SPECS[name]
    state = hasher(spec)
    state.update(DATA[offset : offset + spec.nbytes])
    return state.hexdigest()


@pytest.mark.parametrize("jobs", [1, 2, 5])
@pytest.mark.parametrize("piece", [1, 999, 10_000, 200_000])
def test_threads_that_take_turns_hash_what_one_would(jobs: int, piece: int) -> None:
    size = max(piece, 100)
    hashing = FileHash(held())

    def work(at: int) -> None:
        view = memoryview(DATA)[at : at + size]
        for start in range(0, len(view), piece):
            hashing.put(at + start, view[start : start + piece])

    run_all(lambda: work, range(0, len(DATA), size), jobs, hashing.stop)
    assert hashing.sha256 == hashlib.sha256(DATA).hexdigest()
    assert hashing.digests == {name: digest_of(name) for name in SPECS}


def test_a_tensor_that_is_not_complete_has_no_digest() -> None:
    hashing = FileHash(held())
    hashing.put(0, memoryview(DATA)[:10_007])
    assert hashing.digests == {}
    hashing.put(10_007, memoryview(DATA)[10_007:10_008])
    assert set(hashing.digests) == {"first", "empty"}


def test_who_waits_is_let_go_when_another_thread_fails() -> None:
    hashing = FileHash()
    raised: list[BaseException] = []

    def wait() -> None:
        try:
            hashing.put(5, memoryview(b"never comes"))
        except StoppedError as error:
            raised.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    hashing.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert len(raised) == 1


def test_bytes_do_not_come_twice() -> None:
    hashing = FileHash()
    hashing.put(0, memoryview(b"abc"))
    with pytest.raises(RuntimeError, match="byte 0 comes twice"):
        hashing.put(0, memoryview(b"abc"))
