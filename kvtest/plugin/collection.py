# SPDX-License-Identifier: Apache-2.0
"""Which tests run: markers, transports, capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pytest

from kvtest.errors import KvtestError, UsageError
from kvtest.plugin import options
from kvtest.transport import Transport

if TYPE_CHECKING:
    from kvtest.conformance import Catalogue
    from kvtest.harness.request import GuestRequest

_MARKERS = (
    "requirement(ID): the promise that the test checks, one of suites/requirements; may be given more than once",
    'guest(scope="function", fresh=False, cold=False, vsock=None, kernel=None, image=None, memory=None, cpus=None, '
    "serial_ports=[...], kernel_arguments=[...]): what the test asks of its guest",
    "measurement: the test measures something, so no guest is started beside it that it has not asked for",
    "capability(NAME): what the machine must be able to do for the test, such as kvm; else skipped, with the cure",
)

# The fixtures that open a transport; the test's ID names the one that it runs over.
_TRANSPORT_FIXTURES = ("vsock", "serial", "endpoint")
# Every fixture of ours is one of these, or uses one.
_ROOT_FIXTURES = ("artifacts", "census", "host")
_OUR_FIXTURES = "kvtest.plugin."
# Whose parameter is the guest kernel, where there are several.
GUEST_KERNEL = "guest_kernel"
_FOLLOWING: pytest.StashKey[pytest.Item | None] = pytest.StashKey()
_PROBLEM: pytest.StashKey[KvtestError] = pytest.StashKey()
#: Why a test that is left out does not concern what is under test.
NOT_APPLICABLE: pytest.StashKey[str] = pytest.StashKey()


def register_markers(config: pytest.Config) -> None:
    """Make the markers known to ``--strict-markers`` and ``--markers``."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Check the markers, and leave out tests of transports that were not asked for.

    Raises:
        pytest.UsageError: A requirement, capability or property of a guest does not exist.
    """
    used = [item for item in items if is_ours(item)]
    if not used:
        return

    try:
        selected = options.loaded(config).settings.transport
        catalogue = catalogue_of(config)
        for item in used:
            try:
                _check(item, catalogue)
            except UsageError as error:
                raise UsageError(f"{item.nodeid}: {error.message}", hint=error.hint) from None
    except KvtestError as error:
        if hasattr(config, "workerinput"):  # a worker that does not come up is taken for an internal error
            for item in used:
                item.stash[_PROBLEM] = error
            return
        raise pytest.UsageError(str(error)) from error

    unwanted = [item for item in used if not transports_of(item) <= set(selected)]
    if unwanted:
        from kvtest.conformance.verdict import not_selected

        for item in unwanted:
            item.stash[NOT_APPLICABLE] = not_selected(sorted(transports_of(item) - set(selected)))
        config.hook.pytest_deselected(items=unwanted)
        kept = set(map(id, items)) - set(map(id, unwanted))
        items[:] = [item for item in items if id(item) in kept]


def catalogue_of(config: pytest.Config) -> Catalogue:
    """Return the requirements that tests may name.

    Raises:
        UsageError: Something is wrong with them.
    """
    from kvtest.conformance import with_others

    return with_others(*options.loaded(config).settings.requirements)


def _check(item: pytest.Item, catalogue: Catalogue) -> None:
    """Raise a UsageError for a marker that cannot be meant."""
    from kvtest.plugin import capabilities

    for mark in item.iter_markers("requirement"):
        if not mark.args or mark.kwargs:
            raise UsageError("@pytest.mark.requirement needs IDs", hint='such as requirement("VSOCK-DATA-001")')
    for identifier in requirements_of(item):
        catalogue[identifier]
    wanted = guest_request(item)
    if wanted.kernel is not None or wanted.image is not None:
        from kvtest.image.recipe import find_kernel, load_recipe

        if wanted.kernel is not None:
            find_kernel(wanted.kernel)
        if wanted.image is not None:
            load_recipe(wanted.image)
    capabilities.names_of(item)


def is_ours(item: pytest.Item) -> bool:
    """Whether a test uses kvtest."""
    markers = any(item.get_closest_marker(name) for name in ("requirement", "guest", "capability"))
    return markers or any(uses(item, name) for name in _ROOT_FIXTURES)


def uses(item: pytest.Item, fixture: str) -> bool:
    """Whether a test uses a fixture of ours, and not one of the same name that is the project's own."""
    information = getattr(item, "_fixtureinfo", None)  # pytest has no public way to ask
    definitions = information.name2fixturedefs.get(fixture) if information is not None else None
    return definitions is not None and definitions[-1].func.__module__.startswith(_OUR_FIXTURES)


def requirements_of(item: pytest.Item) -> list[str]:
    """Return the IDs of the requirements that a test checks, nearest marker first."""
    return [str(identifier) for mark in item.iter_markers("requirement") for identifier in mark.args]


def transports_of(item: pytest.Item) -> set[Transport]:
    """Return the transports that a test runs over."""
    parameters = _parameters(item)
    return {Transport(parameters[name]) for name in _TRANSPORT_FIXTURES if name in parameters and uses(item, name)}


def _parameters(item: pytest.Item) -> Mapping[str, Any]:
    callspec = getattr(item, "callspec", None)
    return callspec.params if callspec is not None else {}


def guest_request(item: pytest.Item) -> GuestRequest:
    """Return what a test asks of its guest; a nearer marker wins over one of the class or module.

    Raises:
        UsageError: The marker has an unknown argument.
    """
    from kvtest.harness.request import GuestRequest

    request = GuestRequest()
    for mark in reversed(list(item.iter_markers("guest"))):
        if mark.args:
            raise UsageError("@pytest.mark.guest takes named arguments only")
        request = request.updated(mark.kwargs)
    kernel = kernel_of(item)
    return request.updated({"kernel": kernel}) if kernel and request.kernel is None else request


def kernel_of(item: pytest.Item) -> str:
    """Return the name of the kernel with which a test runs because the run is with several; else nothing."""
    return str(_parameters(item).get(GUEST_KERNEL, "")) if uses(item, GUEST_KERNEL) else ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Note down which test comes next."""
    item.stash[_FOLLOWING] = nextitem


def following_item(item: pytest.Item) -> pytest.Item | None:
    """Return the test that this process runs after ``item``; ``None`` if there is none."""
    return item.stash.get(_FOLLOWING, None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose capabilities are missing here, and say how to get them."""
    if _PROBLEM in item.stash:
        raise item.stash[_PROBLEM]
    if item.get_closest_marker("capability") is None:
        return
    from kvtest.plugin import capabilities

    missing = capabilities.missing(item)
    if missing is not None:
        pytest.skip(missing)
