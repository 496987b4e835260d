# SPDX-License-Identifier: Apache-2.0
"""A guest that somebody else has built as a whole: a kernel, and a root file system in an initrd or on a disk."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from attrs import frozen

from kvtest.errors import RecipeError
from kvtest.image.kernel_config import problems, remarks
from kvtest.image.kernel_file import KernelFile, read_kernel
from kvtest.image.root_file import DiskFile, read_disk, read_initrd
from kvtest.start import AgentDisk

# The names of the first disk and of its first partition, and what else the kernel is told: it looks for its root before
# it has found NVMe disks.
_ROOTS = {
    AgentDisk.VIRTIO_BLK: ("/dev/vda", "/dev/vda1", ()),
    AgentDisk.NVME: ("/dev/nvme0n1", "/dev/nvme0n1p1", ("rootwait",)),
}
# What the systemd of Kata's images is to start; an agent that is the first process ignores it.
_TARGET = ("systemd.unit=kata-containers.target", "systemd.mask=systemd-networkd.service")


@frozen
class WholeGuest:
    """The files of such a guest.

    Args:
        kernel: The kernel.
        initrd: The initrd, if that holds its root.
        disk: The disk, if that does.
        kind: What the disk is to it.
    """

    kernel: KernelFile
    initrd: Path | None
    disk: DiskFile | None
    kind: AgentDisk

    @classmethod
    def read(cls, kernel: Path, initrd: Path | None, disk: Path | None, kind: AgentDisk) -> Self:
        """Look at the files.

        Raises:
            RecipeError: One of them cannot be used; the message says why.
        """
        return cls(
            read_kernel(kernel),
            None if initrd is None else read_initrd(initrd),
            None if disk is None else read_disk(disk),
            kind,
        )

    def checked(self) -> str:
        """Return, in one line, what was found about the kernel's configuration.

        Raises:
            RecipeError: It lacks what an agent needs.
        """
        config = self.kernel.config
        if config is None:
            return f"{self.kernel}: whether it has what the agent needs could not be checked: {self.kernel.unread}"
        kind, file_system = (None, None) if self.disk is None else (self.kind, self.disk.file_system)
        lacking = list(problems(config, kind, file_system))
        if lacking:
            hint = f"build it with them; this is what {config.source} says"
            if kind is AgentDisk.VIRTIO_BLK and config.values.get("CONFIG_BLK_DEV_NVME") == "y":
                hint += "; it has CONFIG_BLK_DEV_NVME: --agent-disk nvme may do"
            raise RecipeError(f"the {self.kernel} lacks what its agent needs: {'; '.join(lacking)}", hint=hint)
        return "; ".join([f"{self.kernel}: has what the agent needs, says {config.source}", *remarks(config)])

    def kernel_arguments(self) -> tuple[str, ...]:
        """Return the words for its kernel's command line that tell where its root is."""
        if self.disk is None:
            return ()
        whole, first, others = _ROOTS[self.kind]
        root = first if self.disk.partitioned else whole
        return (f"root={root}", f"rootfstype={self.disk.file_system}", "ro", *others, *_TARGET)
