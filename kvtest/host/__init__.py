# SPDX-License-Identifier: Apache-2.0
"""Hosts: where guests run, and where tests do work outside pytest's own process."""
