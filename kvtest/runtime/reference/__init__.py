# SPDX-License-Identifier: Apache-2.0
"""The reference runtime: a containerd shim v2 whose pods are cloned guests with the reference agent."""
