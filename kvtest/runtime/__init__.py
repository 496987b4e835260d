# SPDX-License-Identifier: Apache-2.0
"""Driving what is under test: guest agents, and runtimes."""
