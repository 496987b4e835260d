# SPDX-License-Identifier: Apache-2.0
"""Measures what issues set goals for, and prints JSON: every figure with its target."""

from __future__ import annotations

from benchmarks.main import main

if __name__ == "__main__":
    main()
