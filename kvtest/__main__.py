# SPDX-License-Identifier: Apache-2.0
"""``python -m kvtest``."""

from kvtest.cli import main

main()
