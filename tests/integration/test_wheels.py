# SPDX-License-Identifier: Apache-2.0
"""Packages for another Python than ours."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from kvtest.errors import HostError
from kvtest.host import installed, wheels

GRPC = metadata.distribution("grpcio")


def test_what_is_bound_to_a_python() -> None:
    found = {one.metadata["Name"]: wheels.bound(one) for one in installed.distributions()}
    assert found["grpcio"]
    assert not found["protobuf"]  # it keeps to the stable ABI
    assert not found["attrs"]


def test_another_python_gets_what_is_compiled_for_it(tmp_path: Path) -> None:
    other = "3.13" if wheels.OURS != "3.13" else "3.12"
    site, scratch = tmp_path / "site", tmp_path / "scratch"
    scratch.mkdir()
    wheels.fetch([GRPC], other, site, scratch)
    (code,) = (site / "grpc/_cython").glob("cygrpc.*.so")
    assert f"cpython-{other.replace('.', '')}-" in code.name
    (said,) = site.glob("grpcio-*.dist-info")
    assert said.name == f"grpcio-{GRPC.version}.dist-info"


def test_what_there_is_not_for_it_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(
        HostError, match=rf"pip could not bring grpcio=={GRPC.version} for Python 2\.7: .*found"
    ) as told:
        wheels.fetch([GRPC], "2.7", tmp_path / "site", tmp_path)
    assert wheels.OURS in (told.value.hint or "")
