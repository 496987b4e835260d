# SPDX-License-Identifier: Apache-2.0
"""``ssh://`` hosts: another machine on which kvtest runs, and whose results come here as they are found.

What kvtest needs there is brought: itself, its packages, guest images, and templates. It stays there, by its hash,
below the user's cache directory, so that the next run brings only what has changed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from kvtest.cache import Progress, silent
from kvtest.errors import HostError
from kvtest.host import cargo, installed, reception
from kvtest.host.archive import unpack
from kvtest.host.arriving import ArrivingEvidence, ArrivingResults
from kvtest.host.frames import Header
from kvtest.host.host import Host
from kvtest.host.interrupts import Interrupts
from kvtest.host.link import SILENCE_SECONDS
from kvtest.host.parcels import Parcel
from kvtest.host.relay import Relay
from kvtest.host.ssh import connect
from kvtest.host.ssh_address import SSHAddress
from kvtest.image import brought
from kvtest.ownership import temporary_directory

_ROOM = 64 << 20  # bytes that have to stay free there for the results
_FETCHED = ("artifacts", "guests")
_RESULTS = "kvtest-results"
_NARROWEST = 100


class RemoteHost(Host):
    """Another machine, ready to be brought what it needs and to run kvtest.

    Args:
        address: Where it is.
        results: The results directory here.
        qemu: QEMU there: a name on ``PATH``, or a path.
        silence: Seconds without a word after which the connection counts as lost, on both sides.

    Raises:
        HostError: It cannot be reached, or lacks what kvtest cannot bring.
    """

    def __init__(
        self,
        address: SSHAddress,
        results: Path,
        qemu: str = "qemu-system-x86_64",
        silence: float = SILENCE_SECONDS,
    ) -> None:
        self.address = address
        self._results = results
        self._site = ""
        self._parcels: tuple[Parcel, ...] = ()
        self._variables: dict[str, str] = {}
        self._client = connect(address)
        try:
            self._link, self.there = reception.receive_at(self._client, address, qemu, silence)
        except BaseException:
            self._client.close()
            raise
        try:
            reception.check(address, self.there, qemu)
        except BaseException:
            self.close()
            raise

    # --- What is brought

    def bring(
        self,
        trees: Sequence[cargo.Tree],
        progress: Progress = silent,
        *,
        parcels: Sequence[Parcel] = (),
        images: Mapping[str, str] | None = None,
    ) -> int:
        """Bring what is not there yet.

        Args:
            trees: What is needed there; the first is kvtest itself.
            progress: Told if there is something to bring.
            parcels: What is the user's own.
            images: The images among the trees that are not known there by what they were made of: names by
                :func:`kvtest.image.brought.key`.

        Returns:
            How many files were brought.

        Raises:
            HostError: There is no room for it, or it cannot be written there.
            HostLostError: The connection is lost.
        """
        self._site = trees[0].place
        self._parcels = tuple(parcels)
        self._variables = brought.environment(images or {})
        trees = [*trees, *(parcel.tree for parcel in parcels)]
        table = {
            tree.place: {name: (file.digest, file.size, file.executable) for name, file in tree.files.items()}
            for tree in trees
        }
        answer = self._ask({"trees": 1}, zlib.compress(json.dumps(table).encode(), 1), awaited="missing")
        known = {file.digest: file for tree in trees for file in tree.files.values()}
        missing = [known[digest] for digest in answer["missing"]]
        size = sum(file.data for file in missing)
        if size + _ROOM > (free := int(answer["free"])):
            said = f"{size >> 20} MiB are to be brought, and {free >> 20} MiB are free for {self.there.base}"
            raise reception.refusal(self.address, {"failed": said, "full": True})
        step = progress(f"{self.address.name}: bringing {len(missing)} files, {size / 1e6:.0f} MB")
        with step if missing else contextlib.nullcontext():
            for file in missing:
                self._send(file)
                if self._link.waiting:  # it says nothing of what it has taken
                    break
            self._ask({"settle": 1}, awaited="settled")
        return len(missing)

    def _send(self, file: cargo.File) -> None:
        for offset, data, last in file.pieces():
            header: Header = {"object": file.digest, "at": offset}
            if last:
                header["size"] = file.size
            self._link.send(header, zlib.compress(data, 1), more=True)

    # --- The run

    def run(self, what: Sequence[str], options: Sequence[str], said: Callable[[bytes], None]) -> int:
        """Run ``kvtest run`` there; each result is here as soon as it is there. See :meth:`Host.run`.

        Every line that is said begins with what the user called the machine. Ctrl-C ends the run in order, as it does
        here; a second one ends us at once, which the other machine notices.
        """
        words = ["run", *what, *options, f"--cache={self.there.base}/cache", f"--results={_RESULTS}", "-v"]
        name = self.address.name.encode() + b": "
        columns = max(_NARROWEST, shutil.get_terminal_size().columns - len(name))
        header = {
            "run": words,
            "site": self._site,
            "results": _RESULTS,
            "scripts": installed.scripts(),
            "columns": columns,
            "variables": self._variables,
        }
        directory = self._ask(header, awaited="started")["started"]
        theirs = f"{directory}/{_RESULTS}"
        places = {f"{self._site}/kvtest/suites": "suites"}
        places |= {parcel.tree.place: os.path.relpath(parcel.root) for parcel in self._parcels}
        relay = Relay(self.address.text, self.address.flags, theirs, self._results, places)
        with (
            ArrivingResults(self._results) as results,
            contextlib.closing(ArrivingEvidence(self._results)) as evidence,
            Interrupts(lambda: self._link.send({"interrupt": 1})) as self.interrupts,
        ):
            while True:
                frame, payload = self._receive()
                if "results" in frame:
                    results.take(relay.results(payload))
                if "evidence" in frame:
                    evidence.take(payload, **frame["evidence"])
                for line in relay.lines(payload) if "said" in frame else ():
                    said(name + line)
                if "ended" in frame:
                    if rest := relay.rest():
                        said(name + rest + b"\n")
                    return int(frame["ended"])

    def fetch(self, directory: Path) -> None:
        """Bring the artifacts of the run; its results are here. See :meth:`Host.fetch`."""
        self._link.send({"fetch": _FETCHED})
        with temporary_directory(directory, ".fetched-") as scratch:
            archive = scratch / "archive.tar.gz"
            try:
                with archive.open("wb") as stream:
                    while "fetched" not in (answer := self._receive())[0]:
                        stream.write(answer[1] if "archive" in answer[0] else b"")  # a run that goes on still speaks
                unpack(archive, directory)
            except OSError as error:
                raise HostError(f"cannot write artifacts to {directory}: {error.strerror}") from error

    def close(self) -> None:
        """End what runs there, have the run's directory removed, and end the connection."""
        self._link.close()
        self._client.close()

    # --- The conversation

    def _ask(self, header: Header, payload: bytes = b"", *, awaited: str) -> Header:
        self._link.send(header, payload)
        answer, _ = self._receive()
        if awaited not in answer:
            raise HostError(f"{self.address.text}: the answer was {answer!r} where {awaited!r} was expected")
        return answer

    def _receive(self) -> tuple[Header, bytes]:
        answer = self._link.receive()
        if "failed" in answer[0]:
            raise reception.refusal(self.address, answer[0])
        return answer
