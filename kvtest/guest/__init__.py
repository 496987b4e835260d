# SPDX-License-Identifier: Apache-2.0
"""What runs inside a guest: init, and the control daemon.

Imports nothing but ``kvtest.rpc``, ``kvtest.errors``, ``kvtest.deadline`` and the standard library; that much is in the
image. The daemon is one thread around a selector, which is what makes it safe to fork.
"""
