# SPDX-License-Identifier: Apache-2.0
"""What a container runtime promises to whoever drives its shim."""
