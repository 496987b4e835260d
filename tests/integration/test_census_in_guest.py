# SPDX-License-Identifier: Apache-2.0
"""vsock is counted where it is real: in a guest that has the kernel's vhost-vsock, as a host has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import attr
import attrs

from kvtest.harness import Guest
from kvtest.resources import package_directory

CID = 4242
PLANT = f"""
import fcntl, json, os, socket, struct, sys
sys.path.insert(0, "/run/census")
import kvtest.census.descriptors, kvtest.census.sockets
from kvtest.census.marks import Marks

marks = Marks(cids={{{CID}, 1}})

def look():
    reserved = kvtest.census.descriptors.reserved_cids([os.getpid()])
    sockets = kvtest.census.sockets.vsock_sockets(marks)
    return [[thing.kind, thing.text] for thing in (*reserved, *sockets)]

seen = [look()]
device = os.open("/dev/vhost-vsock", os.O_RDWR)
fcntl.ioctl(device, 0x4008AF60, struct.pack("Q", {CID}))  # VHOST_VSOCK_SET_GUEST_CID
listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
listener.bind((socket.VMADDR_CID_ANY, 99))
listener.listen()
client = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
client.connect((1, 99))  # VMADDR_CID_LOCAL
server, _ = listener.accept()
seen.append([device, client.getsockname()[1], look()])
os.close(device)
for opened in (client, server, listener):
    opened.close()
seen.append(look())
print(json.dumps(seen))
"""


def test_reserved_cids_and_vsock_sockets(clone: Callable[..., Guest]) -> None:
    guest = clone(vsock=False)
    guest.run(["modprobe", "--all", "vhost_vsock", "vsock_loopback", "vsock_diag"])
    for name in ("descriptors", "interpreter", "sockets", "marks", "thing"):
        put(guest, f"census/{name}.py", (package_directory() / f"census/{name}.py").read_bytes())
    put(guest, "census/__init__.py", b"")
    put(guest, "__init__.py", b"")
    put(guest, "guest/__init__.py", b"")
    put(guest, "guest/inventory.py", (package_directory() / "guest/inventory.py").read_bytes())
    for package in (attr, attrs):
        for file in Path(str(package.__file__)).parent.glob("*.py"):
            put(guest, f"../{package.__name__}/{file.name}", file.read_bytes())
    guest.write_file("/run/plant.py", PLANT.encode())

    told = guest.run(["python3", "/run/plant.py"])

    assert told.code == 0, told.stderr.decode()
    before, (device, port, during), after = json.loads(told.stdout)
    assert before == after == []
    assert during[0][0] == "cid"
    assert during[0][1].startswith(f"reserved by descriptor {device} of process ")
    assert sorted(text for kind, text in during[1:] if kind == "vsock-socket") == [
        f"*:{port} to 1:99",
        f"1:99 to 1:{port}",
    ]


def put(guest: Guest, name: str, content: bytes) -> None:
    path = f"/run/census/kvtest/{name}"
    guest.run(["mkdir", "-p", path.rpartition("/")[0]])
    guest.write_file(path, content)
