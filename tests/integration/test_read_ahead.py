# SPDX-License-Identifier: Apache-2.0
"""The next test's guest is started while a test runs, and is like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvtest.harness import GuestFactory, GuestRequest
from kvtest.harness import factory as factory_module
from kvtest.settings import Settings

WANTED = "wanted, after it was started ahead"
SUITE = """
import pytest

def test_first(guest):
    assert guest.run(["true"]).code == 0

def test_second(guest, vsock):
    assert guest.run(["true"]).code == 0

@pytest.mark.measurement
def test_measures(guest):
    pass

def test_after_a_measurement(guest):
    pass

@pytest.mark.guest(cold=True)
def test_boots(guest):
    pass

def test_last(guest):
    pass

def test_without():
    pass
"""


def test_the_next_guest_of_that_kind_is_it(factory: GuestFactory) -> None:
    configuration = factory.configuration(GuestRequest(), vsock=False)
    factory.template(configuration)
    factory.start_ahead(configuration)
    with factory.start(configuration) as guest, factory.start(configuration) as other:
        assert WANTED in [what for what, _ in guest.vm.timeline]
        assert WANTED not in [what for what, _ in other.vm.timeline]
        numbers = {started.run(["cat", "/proc/sys/kernel/random/uuid"]).text for started in (guest, other)}
        assert len(numbers) == 2


def test_another_kind_ends_it(factory: GuestFactory) -> None:
    configuration = factory.configuration(GuestRequest(), vsock=False)
    factory.template(configuration)
    factory.start_ahead(configuration)
    assert factory._ahead is not None
    ahead = factory._ahead[1]
    with factory.start(factory.configuration(GuestRequest(), vsock=True)) as guest:
        assert WANTED not in [what for what, _ in guest.vm.timeline]
    assert ahead.state == "dead"
    assert not ahead.directory.exists()


def test_one_that_died_meanwhile_is_not_given_to_a_test(factory: GuestFactory) -> None:
    configuration = factory.configuration(GuestRequest(), vsock=False)
    factory.template(configuration)
    factory.start_ahead(configuration)
    assert factory._ahead is not None
    process = factory._ahead[1].process
    process.kill()
    process.wait(10.0)
    with factory.start(configuration) as guest:
        assert guest.run(["true"]).code == 0


def test_none_is_started_where_memory_is_scarce(factory: GuestFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = factory.configuration(GuestRequest(), vsock=False)
    factory.template(configuration)
    monkeypatch.setattr(factory_module, "available_memory", lambda: (configuration.memory << 20) + 1)
    factory.start_ahead(configuration)
    assert factory._ahead is None


@pytest.mark.parametrize("read_ahead", ["on", "off"])
def test_which_tests_get_one(pytester: pytest.Pytester, settings: Settings, read_ahead: str) -> None:
    pytester.makepyfile(test_ahead=SUITE)
    result = pytester.runpytest_subprocess(
        *("-p", "no:cacheprovider", "-n0", f"--kvtest-cache={settings.cache}", f"--kvtest-read-ahead={read_ahead}")
    )
    result.assert_outcomes(passed=7)
    ahead = {
        path.parent.parent.name.removeprefix("test_ahead-test_")
        for path in (pytester.path / "kvtest-results/artifacts").glob("*/guest/timeline.json")
        if WANTED in dict(json.loads(Path(path).read_bytes()))
    }
    assert ahead == ({"second-vhost-user-vsock", "last"} if read_ahead == "on" else set())
