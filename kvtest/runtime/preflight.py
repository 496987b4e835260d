# SPDX-License-Identifier: Apache-2.0
"""Before the first test: a runtime that cannot be run at all is one message, and not one per test."""

from __future__ import annotations

import contextlib
import functools
import secrets
from pathlib import Path

from kvtest.deadline import Deadline
from kvtest.errors import HostError, KvtestError, UsageError
from kvtest.ownership import RunDirectory
from kvtest.runtime.agent import AgentEndpoint
from kvtest.runtime.backend import Surroundings
from kvtest.runtime.containerd_process import STARTING_SECONDS, ContainerdProcess, find_containerd
from kvtest.runtime.direct import BUNDLES, DirectBackend
from kvtest.runtime.installation import Installation, find
from kvtest.settings import LoadedSettings, Settings

START_SECONDS = 10.0
"""Seconds that a shim may take to start and answer, and to end; it has no container yet."""

ANSWER_SECONDS = 5.0
"""Seconds that an agent may take that is said to run."""

_CHOICES = ("runtime", "shim", "runtime_config")


def chosen(loaded: LoadedSettings) -> bool:
    """Return whether the user has named what is to be tested: what was asked for is not left out without an error."""
    return any(setting.name in _CHOICES for setting, _, _ in loaded.changed())


def prepare(loaded: LoadedSettings, *, alone: bool) -> None:
    """See that the runtime can be run, as far as that does not take a container.

    Where the machine lacks the default runtime, nothing is said as long as there are other tests: its own are skipped,
    with the reason. Our own shim is not tried: it would make the template of its pods, which is done, and told, before
    the first test of it.

    Args:
        loaded: The settings.
        alone: Whether only tests of the runtime are to run.

    Raises:
        KvtestError: A runtime that the user has asked for is missing something, or a shim does not start.
    """
    try:
        installation = find(loaded.settings)
    except KvtestError as error:
        if isinstance(error, UsageError) or chosen(loaded) or alone:
            raise
        return
    if not installation.profile.own or loaded.settings.shim is not None:
        try_start(installation, loaded.settings.run_directory)


def try_agent(settings: Settings) -> None:
    """Ask an agent that is said to run already for its health.

    Args:
        settings: The settings of the run, which have its address.

    Raises:
        HostError: Nobody answers, or somebody else than an agent, or this machine has no such addresses.
        UsageError: It is no address.
    """
    assert settings.agent_address is not None
    deadline = Deadline(ANSWER_SECONDS)
    try:
        with AgentEndpoint.of(settings.agent_address, ANSWER_SECONDS).connect(deadline) as agent:
            agent.check(deadline)
    except (HostError, UsageError):
        raise
    except KvtestError as error:
        if error.refused:
            raise HostError(
                f"what answers at {settings.agent_address} does not say how it is: {error.message}",
                hint="--agent-address is of an agent that speaks Kata's API: is it one?",
            ) from error
        raise HostError(
            f"the agent at {settings.agent_address} does not answer: {error.message}",
            hint="--agent-address is of an agent that runs already: does it, and does it listen there?",
        ) from error


def try_containerd(settings: Settings) -> None:
    """Start a containerd as tests have it, and end it; once for a process.

    Where there is none, or no runtime, nothing is said: the tests that need them are skipped, or tell.

    Args:
        settings: The settings of the run.

    Raises:
        ContainerdError: It did not start; the end of its log is in the message.
    """
    try:
        find(settings)
        program = find_containerd()
    except KvtestError:
        return
    _try_containerd(program, settings.run_directory)


@functools.cache
def _try_containerd(program: Path, base: Path | None) -> None:
    with RunDirectory(base) as directory:
        process = ContainerdProcess(directory.path, program)
        process.start(Deadline(STARTING_SECONDS))
        process.close()


def try_start(installation: Installation, base: Path | None = None, within: float = START_SECONDS) -> None:
    """Start a shim without a container, and end it.

    Args:
        installation: The runtime.
        base: Where to make a run directory; chosen if ``None``.
        within: Seconds that it may take.

    Raises:
        ShimError: It did not start.
    """
    deadline = Deadline(within)
    with RunDirectory(base) as directory:
        directory.own_sockets_in(f"{BUNDLES}/*/address")
        surroundings = Surroundings(f"kvtest-{secrets.token_hex(5)}", installation, directory.path)
        backend = DirectBackend(surroundings, lambda _event: None, lambda _path: None)
        try:
            backend.open(deadline)
            with contextlib.suppress(KvtestError):  # how it ends is for the tests
                backend.end(deadline)
        finally:
            backend.close()
