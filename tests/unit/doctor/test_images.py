# SPDX-License-Identifier: Apache-2.0
"""What a run has to build first, and the mirror that its packages come from."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import attrs
import pytest

from kvtest.doctor import Finding, Status, images
from kvtest.doctor.report import GUESTS
from kvtest.doctor.system import System
from kvtest.image.bootstrap import default_mirror
from kvtest.settings import Settings

SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n"
BOOKWORM = "/debian/dists/bookworm"


class Server(ThreadingHTTPServer):
    """A mirror, or a proxy, that has what it is given and remembers what it was asked for.

    Args:
        contents: What it has, by path or by URL; a status in place of a body is an error.
    """

    def __init__(self, contents: dict[str, bytes | int]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents = contents
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        content = self.server.contents.get(self.path, 404)
        if isinstance(content, int):
            self.send_error(content)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base class
        pass


@pytest.fixture(autouse=True)
def without_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "http_proxy", "https_proxy", "all_proxy", "no_proxy":
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[[dict[str, bytes | int]], Server]]:
    """Starts servers."""
    servers: list[Server] = []

    def start(contents: dict[str, bytes | int]) -> Server:
        servers.append(Server(contents))
        Thread(target=servers[-1].serve_forever, args=(0.01,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def row(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str | None], Finding]:
    """Returns what is found of a mirror where nothing is built yet."""

    def look(mirror: str | None) -> Finding:
        changed = attrs.evolve(settings, cache=tmp_path_factory.mktemp("cache"), mirror=mirror)
        (found,) = (row for check in images.CHECKS for row in check.findings(System("6.1"), changed))
        assert (found.check, found.needed_by) == ("package mirror", GUESTS)
        return found

    return look


Row = Callable[[str | None], Finding]
Start = Callable[[dict[str, bytes | int]], Server]


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/debian"


def test_what_has_to_be_built(settings: Settings, tmp_path: Path) -> None:
    changed = attrs.evolve(settings, cache=tmp_path, guest_kernel=("6.12", "5.10", "6.13"), guest_image="guest")
    assert images.unbuilt(changed) == {
        "image guest with kernel 6.12": ("bookworm",),
        "image agent with kernel 6.12": ("bookworm",),
        "image guest with kernel 5.10": ("bookworm", "bullseye"),
        "image agent with kernel 5.10": ("bookworm", "bullseye"),
    }
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_answers(row: Row, serve: Start) -> None:
    server = serve({f"{BOOKWORM}/InRelease": SIGNED})
    found = row(f"{url(server)}/")
    assert (found.status, found.found) == (Status.OK, f"{url(server)} answers, and has bookworm")
    assert server.asked == [f"{BOOKWORM}/InRelease"]
    assert row(f"deb [arch=amd64] {url(server)} bookworm main").status is Status.OK
    assert row(url(serve({f"{BOOKWORM}/Release": b"Origin: Debian\n"}))).status is Status.OK


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        ({}, "has no release bookworm"),
        ({f"{BOOKWORM}/InRelease": 403}, "HTTP status 403, Forbidden"),
        (
            {f"{BOOKWORM}/InRelease": b"\n<html>Log in first"},
            "answers with a web page in place of the index of bookworm",
        ),
    ],
)
def test_a_mirror_that_does_not_have_it(row: Row, serve: Start, contents: dict[str, bytes | int], told: str) -> None:
    found = row(url(serve(contents)))
    assert found.status is Status.MISSING
    assert told in found.found
    assert found.found.endswith("; packages of bookworm are needed to build a guest image")
    assert "--mirror" in (found.cure or "")


def test_a_mirror_that_cannot_be_reached(row: Row) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    found = row(f"http://127.0.0.1:{port}/debian")
    assert found.status is Status.MISSING
    assert found.found.startswith(f"http://127.0.0.1:{port}/debian: Connection refused; ")


def test_a_mirror_that_says_nothing_has_a_deadline(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mirror = f"http://127.0.0.1:{silent.getsockname()[1]}/debian"
        found = row(mirror)
    assert found.status is Status.MISSING
    assert found.found.startswith(f"{mirror}")


def test_what_is_no_server_is_a_row(row: Row) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"SSH-2.0-nobody\r\n")

        Thread(target=answer, daemon=True).start()
        found = row(f"http://127.0.0.1:{listening.getsockname()[1]}/debian")
    assert found.status is Status.MISSING
    assert "SSH-2.0-nobody" in found.found


def test_a_proxy_is_asked_where_there_is_one(row: Row, serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve({"http://mirror.invalid/debian/dists/bookworm/InRelease": SIGNED})
    monkeypatch.setenv("http_proxy", url(proxy).removesuffix("/debian"))
    assert row("http://mirror.invalid/debian").status is Status.OK


def test_the_mirror_that_mmdebstrap_takes(row: Row, serve: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve({f"{BOOKWORM}/InRelease": SIGNED})
    monkeypatch.setattr(images, "default_mirror", lambda: url(server))
    assert row(None).found == f"{url(server)} answers, and has bookworm"
    del server.contents[f"{BOOKWORM}/InRelease"]
    assert row(None).status is Status.WARNING  # it knows others


def test_what_mmdebstrap_takes_is_in_its_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert default_mirror() is None
    program = tmp_path / "mmdebstrap"
    program.write_text("#!/bin/sh\n    my $mirror    = 'http://mirror.invalid/debian';\n")
    program.chmod(0o755)
    assert default_mirror() == "http://mirror.invalid/debian"


def test_a_mirror_of_files(row: Row, tmp_path: Path) -> None:
    (tmp_path / "dists/bookworm").mkdir(parents=True)
    assert row(f"file://{tmp_path}").found.startswith(f"file://{tmp_path} has no release bookworm")
    (tmp_path / "dists/bookworm/InRelease").write_bytes(SIGNED)
    assert row(f"file://{tmp_path}").status is Status.OK


@pytest.mark.parametrize("mirror", ["/etc/apt/sources.list", "copy:///srv/debian", "http://me:secret@localhost/debian"])
def test_what_is_not_tried_is_said(row: Row, mirror: str) -> None:
    assert images.url_of(mirror) is None
    assert row(mirror).status is Status.WARNING
    assert "secret" not in row(mirror).found


def test_nobody_is_asked_for_what_is_there(settings: Settings, monkeypatch: pytest.MonkeyPatch, serve: Start) -> None:
    server = serve({})
    monkeypatch.setattr(images, "unbuilt", lambda _settings: {"image guest with kernel 6.12": ()})
    changed = attrs.evolve(settings, mirror=url(server))
    (found,) = (row for check in images.CHECKS for row in check.findings(System("6.1"), changed))
    assert (found.status, found.found) == (Status.OK, "not asked: nothing has to be fetched")
    assert server.asked == []
