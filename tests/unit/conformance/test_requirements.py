# SPDX-License-Identifier: Apache-2.0
"""Loading requirements, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvtest.conformance import Catalogue, Level, Ring
from kvtest.errors import UnknownNameError, UsageError
from kvtest.resources import suites_directory
from kvtest.transport import Transport

DOCUMENT = '[document.spec]\ntitle = "A specification"\nurl = "https://spec.example"\n'
ENTRY = """
[[requirement]]
id = "VSOCK-CLOSE-001"
level = "SHOULD"
statement = "It closes."
source = [{ document = "spec", section = "4.2" }]
rings = ["transport", "agent"]
transports = ["virtio-serial"]
"""


def refused(directory: Path, text: str) -> str:
    (directory / "wrong.toml").write_text(text)
    with pytest.raises(UsageError) as caught:
        Catalogue.load(directory)
    return str(caught.value)


def test_a_requirement_has_everything_that_its_file_says(tmp_path: Path) -> None:
    (tmp_path / "right.toml").write_text(DOCUMENT + ENTRY)
    (tmp_path / "README.md").write_text("not a table")
    requirement = Catalogue.load(tmp_path)["VSOCK-CLOSE-001"]
    assert requirement.level is Level.SHOULD
    assert requirement.rings == (Ring.TRANSPORT, Ring.AGENT)
    assert requirement.transports == (Transport.VIRTIO_SERIAL,)
    assert str(requirement) == "VSOCK-CLOSE-001 (SHOULD): It closes."
    assert [str(source) for source in requirement.sources] == ["A specification, 4.2"]
    assert requirement.sources[0].document.url == "https://spec.example"


def test_directories_add_up(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for directory, name in (ours, "VSOCK-CLOSE-001"), (theirs, "VENDOR-CLOSE-001"):
        directory.mkdir()
        (directory / "a.toml").write_text(DOCUMENT + ENTRY.replace("VSOCK-CLOSE-001", name))
    catalogue = Catalogue.load(ours, theirs)
    assert [requirement.id for requirement in catalogue] == ["VSOCK-CLOSE-001", "VENDOR-CLOSE-001"]
    assert len(catalogue) == 2
    assert "VENDOR-CLOSE-001" in catalogue
    assert "VENDOR-CLOSE-002" not in catalogue


AREA = '[area.VSOCK]\nrings = ["transport"]\ntransports = ["vhost-user-vsock"]\n'


def test_an_area_says_what_its_requirements_do_not(tmp_path: Path) -> None:
    own = ENTRY.replace("CLOSE-001", "CLOSE-002").replace('transports = ["virtio-serial"]', "transports = []")
    bare = ENTRY.replace('rings = ["transport", "agent"]\ntransports = ["virtio-serial"]', "")
    other = ENTRY.replace("VSOCK-", "VSOCKS-")
    (tmp_path / "right.toml").write_text(AREA + DOCUMENT + own + bare + other)
    catalogue = Catalogue.load(tmp_path)
    assert catalogue["VSOCK-CLOSE-001"].rings == (Ring.TRANSPORT,)
    assert catalogue["VSOCK-CLOSE-001"].transports == (Transport.VHOST_USER_VSOCK,)
    assert catalogue["VSOCK-CLOSE-002"].rings == (Ring.TRANSPORT, Ring.AGENT)
    assert catalogue["VSOCK-CLOSE-002"].transports == ()
    assert catalogue["VSOCKS-CLOSE-001"].transports == (Transport.VIRTIO_SERIAL,)


RETIRED = '[retired]\nVSOCK-CLOSE-002 = "it said the same as VSOCK-CLOSE-001"\n'


def test_a_retired_id_is_not_used_again(tmp_path: Path) -> None:
    (tmp_path / "right.toml").write_text(RETIRED + DOCUMENT + ENTRY)
    catalogue = Catalogue.load(tmp_path)
    assert catalogue.retired == {"VSOCK-CLOSE-002": "it said the same as VSOCK-CLOSE-001"}
    assert "VSOCK-CLOSE-002" not in catalogue
    with pytest.raises(UsageError, match="VSOCK-CLOSE-002 is retired: it said the same as VSOCK-CLOSE-001"):
        catalogue["VSOCK-CLOSE-002"]
    again = ENTRY.replace("CLOSE-001", "CLOSE-002")
    assert "VSOCK-CLOSE-002 is retired in" in refused(tmp_path, DOCUMENT + again)
    assert "VSOCK-CLOSE-001 is already in" in refused(tmp_path, RETIRED.replace("CLOSE-002", "CLOSE-001"))
    (tmp_path / "right.toml").unlink()
    assert "VSOCK-CLOSE-002 is retired in" in refused(tmp_path, RETIRED + DOCUMENT + again)


@pytest.mark.parametrize("level", list(Level))
def test_levels(tmp_path: Path, level: Level) -> None:
    (tmp_path / "right.toml").write_text(DOCUMENT + ENTRY.replace("SHOULD", level))
    read = Catalogue.load(tmp_path)["VSOCK-CLOSE-001"].level
    assert read is level
    assert read.binding == (level in ("MUST", "MUST NOT"))


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        (AREA.replace("VSOCK]", "VSOK]"), "area VSOK: no requirement of this file begins with that word"),
        (AREA.replace("rings", "ring"), "area VSOCK: unknown key 'ring'\n  hint: did you mean 'rings'?"),
        ("area = 1\n", "'area' is not a table of tables"),
        ("retired = 1\n", "'retired' is not a table of tables"),
        ('[retired]\nVSOCK-001 = "x"\n', "retired VSOCK-001: the ID is not of the form AREA-TOPIC-NNN"),
        ("[retired]\nVSOCK-CLOSE-002 = 1\n", "retired VSOCK-CLOSE-002: it has no reason"),
        ('[retired]\nVSOCK-CLOSE-002 = " "\n', "retired VSOCK-CLOSE-002: it has no reason"),
    ],
)
def test_what_is_wrong_with_areas_and_retired_ids_is_named(tmp_path: Path, text: str, seen: str) -> None:
    assert seen in refused(tmp_path, text + DOCUMENT + ENTRY)


def test_an_unknown_id_has_a_nearest_neighbour(tmp_path: Path) -> None:
    (tmp_path / "right.toml").write_text(DOCUMENT + ENTRY)
    with pytest.raises(UnknownNameError, match="unknown requirement 'VSOCK-CLOSE-010'") as caught:
        Catalogue.load(tmp_path)["VSOCK-CLOSE-010"]
    assert caught.value.hint == "did you mean 'VSOCK-CLOSE-001'?"


def test_an_id_appears_once(tmp_path: Path) -> None:
    (tmp_path / "right.toml").write_text(DOCUMENT + ENTRY)
    message = refused(tmp_path, DOCUMENT + ENTRY)
    assert f"wrong.toml: the requirement VSOCK-CLOSE-001 is already in {tmp_path / 'right.toml'}" in message
    (tmp_path / "right.toml").unlink()
    assert "is already in" in refused(tmp_path, DOCUMENT + ENTRY + ENTRY)


@pytest.mark.parametrize(
    ("old", "new", "seen"),
    [
        ("level =", "levle =", "requirement VSOCK-CLOSE-001: unknown key 'levle'\n  hint: did you mean 'level'?"),
        ('"SHOULD"', '"SHALL"', "'level' has no choice 'SHALL'"),
        (
            '"transport", "agent"',
            '"transprot"',
            "'rings[0]' has no choice 'transprot'\n  hint: did you mean 'transport'",
        ),
        ('"transport", "agent"', "", "'rings' is empty"),
        ('["virtio-serial"]', '["vsock"]', "'transports[0]' has no choice 'vsock'"),
        ('statement = "It closes."', "", "requirement VSOCK-CLOSE-001: the key 'statement' is missing"),
        ("It closes.", "It closes", "is not one sentence on one line that ends with a full stop"),
        ("It closes.", "It closes.\\nIt opens.", "is not one sentence on one line that ends with a full stop"),
        ('{ document = "spec", section = "4.2" }', "", "'source' is empty"),
        (
            'document = "spec"',
            'document = "spek"',
            "'spek' is not described in this file\n  hint: did you mean 'spec'?",
        ),
        ('id = "VSOCK-CLOSE-001"', "", "requirement number 1: the key 'id' is missing"),
        ('id = "VSOCK-CLOSE-001"', "id = 1", "requirement number 1: 'id' must be a string, not 1"),
        ("[[requirement]]", "[[requirements]]", "unknown key 'requirements'\n  hint: did you mean 'requirement'?"),
        ("[[requirement]]", "[requirement]", "'requirement' is not a list of tables"),
        ("title =", "titel =", "document spec: unknown key 'titel'\n  hint: did you mean 'title'?"),
        ("[[requirement]]", "[[requirement]", "is not valid TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, old: str, new: str, seen: str) -> None:
    text = (DOCUMENT + ENTRY).replace(old, new)
    assert text != DOCUMENT + ENTRY
    message = refused(tmp_path, text)
    assert message.startswith(str(tmp_path / "wrong.toml"))
    assert seen in message


@pytest.mark.parametrize(
    "name", ["VSOCK-001", "vsock-close-001", "VSOCK-CLOSE-1", "VSOCK-CLOSE-0001", "VSOCK-CLOSE-001\\n", "A-B-C-001", ""]
)
def test_ids_have_one_form(tmp_path: Path, name: str) -> None:
    message = refused(tmp_path, DOCUMENT + ENTRY.replace("VSOCK-CLOSE-001", name))
    assert "the ID is not of the form AREA-TOPIC-NNN" in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the directory of requirements .*: No such file or directory"):
        Catalogue.load(tmp_path / "absent")
    (tmp_path / "a.toml").mkdir()
    with pytest.raises(UsageError, match=r"cannot read .*a\.toml: Is a directory"):
        Catalogue.load(tmp_path)
    (tmp_path / "a.toml").rmdir()
    (tmp_path / "a.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"a\.toml is not valid TOML: .*utf-8"):
        Catalogue.load(tmp_path)
    (tmp_path / "a.toml").write_text("requirement = [1]\ndocument = {}")
    with pytest.raises(UsageError, match="requirement number 1 is not a table"):
        Catalogue.load(tmp_path)
    (tmp_path / "a.toml").write_text("document = 1")
    with pytest.raises(UsageError, match="'document' is not a table of tables"):
        Catalogue.load(tmp_path)


def test_the_shipped_requirements_load() -> None:
    catalogue = Catalogue.load(suites_directory() / "requirements")
    ours, serial = (Transport.VHOST_USER_VSOCK,), (Transport.VIRTIO_SERIAL,)
    kernel = (Transport.VHOST_VSOCK,)
    vsock = (*ours, *kernel)
    by_area: dict[str, list[tuple[Transport, ...]]] = {
        "VSOCK": [ours, kernel, vsock],
        "SERIAL": [serial],
        "AGENT": [vsock, serial, (*vsock, *serial)],
        "RUNTIME": [()],
    }
    assert len(catalogue) >= 30
    for requirement in catalogue:
        assert requirement.transports in by_area[requirement.id.partition("-")[0]]
        assert all(source.document.url.startswith("https://") for source in requirement.sources)
