# SPDX-License-Identifier: Apache-2.0
"""Profiles, and what is said of wrong ones."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from kvtest.errors import ProfileError, UnknownNameError
from kvtest.runtime.profile import Feature, OptionsType, Profile, load, names

PROFILE = """
description = "One of my own"
shim = "/opt/shim"
runtime = "io.containerd.mine.v2"
cure = "build it"
owns = ["/run/mine/{pod}/{container}"]
features = ["pause"]

[options]
type = "containerd.runc.v1.Options"
binary = "mine"
"""


def test_the_shipped_profiles_load() -> None:
    assert names() == ["crun", "kata", "kata-rs", "reference", "runc", "runsc"]
    for name in names():
        profile = load(name)
        assert profile.name == name
        assert profile.cure
    assert load("kata").status_of_lost_vm == 255
    assert load("runc").vm is None


def test_a_profile_of_ones_own_is_named_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(PROFILE)
    profile = load(str(path))
    assert profile.name == "mine"
    assert profile.features == (Feature.PAUSE,)
    assert profile.options.type is OptionsType.RUNC
    assert profile.cleanup_bound == 5.0


def test_the_documents_profile_has_every_key(tmp_path: Path) -> None:
    document = (Path(__file__).parents[3] / "docs/runtimes.md").read_text()
    example = tmp_path / "mine.toml"
    example.write_text(document.partition("```toml\n")[2].partition("```")[0])
    assert set(load(str(example)).features) == set(Feature)
    assert set(unsaid(Profile, tomllib.loads(example.read_text()))) == {"name"}  # that of the file
    for feature in Feature:
        assert f"`{feature}`" in document


def unsaid(kind: type[attrs.AttrsInstance], table: dict[str, Any], place: str = "") -> Iterator[str]:
    """Yield the keys that a table could have besides."""
    for name, annotation in typing.get_type_hints(kind).items():
        if name not in table:
            yield place + name
            continue
        value = table[name][0] if isinstance(table[name], list) else table[name]
        for part in (annotation, *typing.get_args(annotation)):
            if attrs.has(part) and isinstance(value, dict):
                yield from unsaid(part, value, f"{place}{name}.")


def test_an_unknown_name_has_a_nearest_neighbour() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'runc'"):
        load("run")


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ("shim =", "shin =", "unknown key 'shin'\n  hint: did you mean 'shim'?"),
        ('binary = "mine"', 'bynary = "mine"', "unknown key 'options.bynary'\n  hint: did you mean 'binary'?"),
        ('"pause"', '"pauses"', "'features[0]' has no choice 'pauses'\n  hint: did you mean 'pause'?"),
        ('"containerd.runc.v1.Options"', '"none"', "'options.binary' and 'options.root' are of"),
        ("/{pod}/{container}", "", "'owns' has '/run/mine', which is not of one pod alone"),
        ("{container}", "{conatiner}", "what is filled in is {namespace}, {pod}, {container} and {run}"),
        ('cure = "build it"', "cleanup_bound = 0", "the key 'cure' is missing"),
        ('cure = "build it"', 'cure = "x"\ncleanup_bound = 0', "'cleanup_bound' must be more than 0 seconds"),
        (
            'cure = "build it"',
            'cure = "x"\ncall_bound = inf',
            "'call_bound' must be more than 0 seconds, and not for ever",
        ),
        ('cure = "build it"', 'cure = "x"\ndetection_bound = nan', "'detection_bound' must be more than 0 seconds"),
        (
            'cure = "build it"',
            'cure = "x"\nminimum_version = "new"',
            "'minimum_version' is 'new'\n  hint: numbers with",
        ),
        ("[options]", '[environment]\n"A=B" = ""\n[options]', "'environment' has 'A=B'"),
        ('binary = "mine"', 'root = "/x/{oops}"', "'options.root' has '/x/{oops}'\n  hint: what is filled in is {run}"),
        (
            "[options]",
            '[vm]\nprocess = "*{nope}*"\n[options]',
            "'vm.process' has '*{nope}*'\n  hint: what is filled in is",
        ),
        ("[options]", "[options", "is not valid TOML"),
        ('binary = "mine"', 'arguments = ["--quick"]', "'options.arguments' needs 'options.binary'"),
        (
            "[options]",
            '[vm]\nprocess = "x"\n[vm.console]\nfound = "(?P<cid>.)"\naddress = "vsock://{kid}:1"\n[options]',
            "'vm.console.address' is 'vsock://{kid}:1'\n  hint: what is filled in is {pod}, {cid}",
        ),
        (
            "[options]",
            '[vm]\nprocess = "x"\n[vm.agent]\naddress = "vsock://{cid}:1024"\n[options]',
            "'vm.agent.address' is 'vsock://{cid}:1024'\n  hint: what is filled in is {pod}:",
        ),
        (
            "[options]",
            '[vm]\nprocess = "x"\n[vm.console]\nfound = "("\naddress = "unix:///x"\n[options]',
            "'vm.console.found' is no regular expression",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, seen: str) -> None:
    path = tmp_path / "mine.toml"
    text = PROFILE.replace(old, new)
    assert text != PROFILE
    path.write_text(text)
    with pytest.raises(ProfileError) as caught:
        load(str(path))
    assert str(caught.value).startswith(str(path))
    assert seen in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"cannot read the profile .*absent\.toml: No such file"):
        load(str(tmp_path / "absent.toml"))
