# SPDX-License-Identifier: Apache-2.0
"""How small and how large a guest can be."""

#: MiB that the default guest image boots in.
SMALLEST_MEMORY = 192
#: Processors; with more, an x86 machine needs an interrupt remapping unit (QEMU, hw/i386/x86.c).
MOST_CPUS = 255
