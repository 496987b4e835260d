# SPDX-License-Identifier: Apache-2.0
"""What is done before the reference runtime is tested: its template is made, and its shims get our settings."""

from __future__ import annotations

import attrs

from kvtest.harness import GuestFactory
from kvtest.runtime.installation import Installation
from kvtest.runtime.reference.machine import configuration, factory_of_pods
from kvtest.settings import SETTINGS, Settings

# What makes a pod's machine another one; the rest is of no interest to a shim.
_PASSED_ON = ("accelerator", "qemu", "memory", "cpus", "cache", "run_directory", "mirror")


def make_template(factory: GuestFactory) -> None:
    """Make the template of pods, if need be: a container's creation does not wait for it."""
    pods = factory_of_pods(factory.settings, factory.artifacts, "pod")
    pods.template(configuration(pods))


def with_settings(installation: Installation, settings: Settings) -> Installation:
    """Return the installation with our settings in the environment of its shims.

    Args:
        installation: The reference runtime.
        settings: The settings.
    """
    variables = {
        SETTINGS[name].variable: SETTINGS[name].render(value)
        for name in _PASSED_ON
        if (value := getattr(settings, name)) is not None
    }
    variables[SETTINGS["guest_kernel"].variable] = settings.kernel
    environment = {**installation.profile.environment, **variables}
    return attrs.evolve(installation, profile=attrs.evolve(installation.profile, environment=environment))
