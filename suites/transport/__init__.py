# SPDX-License-Identifier: Apache-2.0
"""The transport ring: vsock and virtio-serial between host and guest."""
