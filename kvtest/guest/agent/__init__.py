# SPDX-License-Identifier: Apache-2.0
"""The reference agent: serves the Kata agent API in a guest, with crun for the containers.

One process, one thread around a reactor: a call that waits is an entry in a list, so that however many wait, the next
one is answered at once. It imports what other guest code may, and ``protobuf``; only images with an agent have that.
"""
