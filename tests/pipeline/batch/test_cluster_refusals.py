"""Clusters that cannot be used: one clear error, soon, and nothing has begun."""

from __future__ import annotations

import operator
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from tensorferry.converters.errors import UsageError
from tensorferry.pipeline import cluster as ours
from tensorferry.pipeline.cluster import cluster_executor

StartDask = Callable[..., AbstractContextManager[tuple[Any, str]]]


def refusal(address: str, **how: Any) -> UsageError:
    with pytest.raises(UsageError) as caught, cluster_executor(address, **how):
        pass
    return caught.value


def test_an_address_where_nobody_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "CONNECT_SECONDS", 3)
    began = time.monotonic()
    error = refusal("tcp://127.0.0.1:1")
    assert time.monotonic() - began < 20
    assert error.message == "tcp://127.0.0.1:1: no scheduler answers: connection refused"
    assert error.hint == "look at the address, and whether the scheduler is running"


def test_an_address_where_somebody_else_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        error = refusal(f"tcp://127.0.0.1:{server.getsockname()[1]}")
    assert "no scheduler answers: nothing heard within 0.5 s" in error.message


def test_certificates_are_asked_for() -> None:
    error = refusal("tls://127.0.0.1:1")
    assert error.hint == "Dask's configuration has to name the certificates (distributed.comm.tls)"


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)  # as if it were not there
    error = refusal("tcp://127.0.0.1:1")
    assert error.message == "tcp://127.0.0.1:1: a cluster needs Dask"
    assert error.hint == "pip install 'tensorferry[dask]'"


def test_another_version_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "own_version", lambda: "99.0")
    error = refusal(address)
    assert "another version of tensorferry, expected 99.0, got" in error.message
    assert error.hint
    assert "workers need the same version" in error.hint


def test_a_folder_that_workers_do_not_see_is_refused(address: str, tmp_path: Path) -> None:
    error = refusal(address, folders=[tmp_path / "mine"])
    assert f"the folder {tmp_path / 'mine'} is not seen from there" in error.message


@pytest.mark.oracle
def test_a_worker_without_the_package_is_refused(start_dask: StartDask, tmp_path: Path) -> None:
    (tmp_path / "tensorferry.py").touch()
    with start_dask(1, PYTHONPATH=str(tmp_path)) as (_, address):
        error = refusal(address)
    assert error.message.endswith("this version of tensorferry is not installed there")


@pytest.mark.oracle
def test_encrypted_clusters() -> None:
    import dask.config
    from distributed import LocalCluster, Security

    security = Security.temporary()
    names = {"ca-file": security.tls_ca_file, "client.key": security.tls_client_key,
             "client.cert": security.tls_client_cert}  # fmt: skip
    with (
        LocalCluster(
            n_workers=1, protocol="tls://", security=security, dashboard_address="127.0.0.1:0"
        ) as cluster,
        dask.config.set({f"distributed.comm.tls.{name}": text for name, text in names.items()}),
        cluster_executor(cluster.scheduler_address) as executor,
    ):
        assert cluster.scheduler_address.startswith("tls://")
        assert executor.submit(operator.add, 1, 2).result() == 3
