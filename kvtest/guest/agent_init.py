# SPDX-License-Identifier: Apache-2.0
"""The first process of a guest whose first process is to be its agent, as in a Kata initrd.

It loads the modules that such an initrd's kernel has built in, looks whether the kernel has what an agent needs, and
then becomes the agent, which finds the guest as the kernel has left it: process 1, and nothing mounted.
"""

from __future__ import annotations

import os
import signal

from kvtest.guest import agent_start, early


def main() -> None:
    """Become the agent; never returns."""
    given = dict(os.environ)
    try:
        os.environ.update(early.ENVIRONMENT)
        os.chdir("/")
        early.mount_all()
        early.load_modules()
        agent = agent_start.description()
        agent_start.check_kernel(agent.name)
        early.unmount_all()
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what it becomes would go on to
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execve(agent.argv[0], agent.argv, {**given, "RUST_BACKTRACE": "1"})
        except OSError as error:
            raise RuntimeError(f"could not run {agent.name}: {error.strerror}") from error
    except BaseException as error:
        early.give_up(f"{type(error).__name__}: {error}")
