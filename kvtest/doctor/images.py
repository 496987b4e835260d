# SPDX-License-Identifier: Apache-2.0
"""The guest images that a run builds first, and whether the mirror answers that their packages come from."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread

from attrs import frozen

from kvtest.concurrency import at_once
from kvtest.doctor.report import GUESTS, Check, Finding, Status
from kvtest.doctor.system import System
from kvtest.errors import KvtestError
from kvtest.image import ImageCache
from kvtest.image.bootstrap import default_mirror
from kvtest.image.recipe import AGENT_RECIPE
from kvtest.settings import Settings

ANSWER_SECONDS = 5.0
"""Seconds that a mirror may take to answer."""

_NAME = "package mirror"
_TRIED = ("http", "https", "file")
_INDICES = ("InRelease", "Release")  # apt asks for the second where a mirror does not have the first
_BEGINNING = 64  # bytes of an index
_NOT_FOUND = 404
_CURE = "mend the network, set http_proxy if there is a proxy, or name another mirror with --mirror URL"


def unbuilt(settings: Settings) -> dict[str, tuple[str, ...]]:
    """Return the images that a run has to build, by name, and from which releases packages are fetched for each.

    Those whose recipe or kernel cannot be used are left out.
    """
    cache, found = ImageCache(settings.cache), {}
    for kernel in settings.guest_kernel:
        for recipe, agent, start in (
            (settings.guest_image, None, None),
            (AGENT_RECIPE, settings.agent, settings.agent_start),  # of the agent ring, and of our own runtime's pods
        ):
            with contextlib.suppress(KvtestError):
                releases = cache.fetches(kernel, recipe, agent=agent, start=start)
                if releases is not None:
                    found[f"image {recipe} with kernel {kernel}"] = releases
    return found


@frozen
class _Answer:
    """What came of asking a mirror: a problem, and whether it is only that the mirror does not have what was asked."""

    problem: str | None = None
    not_found: bool = False


def _mirror(_system: System, settings: Settings) -> Iterator[Finding]:
    releases = sorted({release for releases in unbuilt(settings).values() for release in releases})
    if not releases:
        yield Finding(_NAME, "not asked: nothing has to be fetched", Status.OK, GUESTS)
        return
    mirror, listed = url_of(settings.mirror or default_mirror() or ""), " and ".join(releases)
    if mirror is None:
        found = "not asked: only a mirror of http, https or file without a password is tried"
        yield Finding(_NAME, found, Status.WARNING, GUESTS, "kvtest image build")
        return
    answers = at_once(*(functools.partial(_ask, mirror, release, ANSWER_SECONDS) for release in releases))
    wrong = next((answer for answer in answers if answer.problem is not None), None)
    if wrong is None:
        yield Finding(_NAME, f"{mirror} answers, and has {listed}", Status.OK, GUESTS)
    elif wrong.not_found and settings.mirror is None:  # mmdebstrap knows others for other distributions
        found = f"{wrong.problem}; packages of {listed} may come from another"
        yield Finding(_NAME, found, Status.WARNING, GUESTS, "kvtest image build")
    else:
        found = f"{wrong.problem}; packages of {listed} are needed to build a guest image"
        yield Finding(_NAME, found, Status.MISSING, GUESTS, _CURE)


def url_of(mirror: str) -> str | None:
    """Return the URL of a mirror as mmdebstrap is told it, if it is of a kind that can be asked here.

    Args:
        mirror: A URL, or a line of apt's sources.list(5).
    """
    url = next((word for word in mirror.split() if "://" in word), "")
    kind, _, rest = url.partition("://")
    # apt takes a password in a URL.
    return url.rstrip("/") if kind in _TRIED and "@" not in rest.partition("/")[0] else None


def _ask(mirror: str, release: str, within: float) -> _Answer:
    """Ask a mirror for the index of a release.

    What resolves names knows no deadline, so whoever does not answer in time is left behind.
    """
    answers: SimpleQueue[_Answer] = SimpleQueue()
    Thread(target=_put, args=(answers, lambda: _asked(mirror, release, within)), daemon=True).start()
    try:
        return answers.get(timeout=within)
    except Empty:
        return _Answer(f"{mirror} did not answer within {within:g} s")


def _put(answers: SimpleQueue[_Answer], ask: Callable[[], _Answer]) -> None:
    answers.put(ask())


def _asked(mirror: str, release: str, within: float) -> _Answer:
    import urllib.error  # a tenth of what a command has to import, and most machines have their images
    import urllib.request

    for index in _INDICES:
        # The rule is about URLs of any kind, and url_of lets none through but those of _TRIED.
        request = urllib.request.Request(f"{mirror}/dists/{release}/{index}", headers={"User-Agent": "kvtest"})  # noqa: S310
        try:
            # One of our own, which looks at http_proxy now: what apt would open, and how.
            with urllib.request.build_opener().open(request, timeout=within) as answer:
                beginning = answer.read(_BEGINNING)
        except urllib.error.HTTPError as error:
            if error.code != _NOT_FOUND:
                return _Answer(f"{mirror}: HTTP status {error.code}, {error.reason}")
        except Exception as error:  # whatever a server says that is none, or a URL holds
            reason = getattr(error, "reason", error)
            if isinstance(reason, FileNotFoundError):
                continue
            return _Answer(f"{mirror}: {getattr(reason, 'strerror', None) or reason or type(error).__name__}")
        else:
            if beginning.lstrip().startswith(b"<"):  # as of a network that wants a login first
                return _Answer(f"{mirror} answers with a web page in place of the index of {release}")
            return _Answer()
    return _Answer(f"{mirror} has no release {release}", not_found=True)


CHECKS = (Check(_NAME, GUESTS, _mirror),)
