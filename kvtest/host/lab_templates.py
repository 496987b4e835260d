# SPDX-License-Identifier: Apache-2.0
"""Makes templates of guests under a lab host's KVM; runs in the lab.

``python3 -m kvtest.host.lab_templates SETTINGS RECIPES`` takes two JSON documents and prints a third.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kvtest.errors import KvtestError
from kvtest.harness import GuestFactory, GuestRequest
from kvtest.settings import load


def main() -> None:
    """Print ``made``, the directories of the templates, or ``problem``, why there are none, in one line of JSON."""
    flags, recipes = map(json.loads, sys.argv[1:])
    settings = load(flags, {}, {}, Path("/work")).settings
    factory = GuestFactory(settings, Path("/work/making"))
    try:
        requests = [GuestRequest(kernel=kernel, image=recipe) for kernel in settings.guest_kernel for recipe in recipes]
        templates = [factory.template(factory.configuration(request, vsock=False)) for request in requests]
        said: dict[str, object] = {"made": [str(template.directory) for template in templates]}
    except KvtestError as error:
        said = {"problem": error.message}
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
