# SPDX-License-Identifier: Apache-2.0
"""Hosts: where guests run, here or elsewhere, and where tests do work outside pytest's own process."""
