# SPDX-License-Identifier: Apache-2.0
"""``docs/requirements.md``: every requirement, the tests that check it, and the saboteurs that break it.

``python -m tests.saboteurs.document`` writes it again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from kvtest.conformance import Catalogue, Requirement, Ring, shipped
from tests.saboteurs.registry import Saboteur, faults, faults_of, table_of, tables
from tests.suites import suite_tests

DOCUMENT = Path(__file__).parents[2] / "docs/requirements.md"
COMMAND = "python -m tests.saboteurs.document"
_HEAD = f"""# Requirements

What the suites check, by ring: each promise with its level ([RFC 2119](https://www.rfc-editor.org/rfc/rfc2119)), where
it comes from, and the tests that check it. The last table says which saboteurs break it on purpose (`tests/saboteurs`),
and which test is seen to fail then.

`{COMMAND}` makes this document from `suites/requirements`, the suites and the saboteurs.
"""
# What Markdown would take for its own.
_SPECIAL = re.compile(r"[\\`*_{}\[\]<>|]")


def document() -> str:
    """Return the whole document."""
    catalogue, tests = shipped(), suite_tests()
    parts = [_HEAD]
    for ring in Ring:
        sections = [_section(requirement, tests) for requirement in catalogue if requirement.rings[0] is ring]
        if sections:
            parts += [f"## Ring {ring}\n", *sections]
    parts += ["## Saboteurs\n", "\n".join(_saboteur_table(catalogue)) + "\n"]
    if catalogue.retired:
        parts += ["## Retired\n", "".join(f"- {name}: {reason}\n" for name, reason in catalogue.retired.items())]
    documents = {source.document.title: source.document.url for one in catalogue for source in one.sources}
    return "\n".join([*parts, *(f"[{title}]: {url}" for title, url in documents.items()), ""])


def caught_by(saboteur: Saboteur, requirement: str) -> Sequence[str]:
    """Return the tests that name a requirement and that a saboteur is at work in.

    Args:
        saboteur: The saboteur.
        requirement: The ID of the requirement.
    """
    return [
        test
        for test, names in suite_tests().items()
        if requirement in names
        and table_of(test) in tables()
        and any(fault.saboteur is saboteur for fault in faults_of(test, faults(table_of(test))))
    ]


def _section(requirement: Requirement, tests: Mapping[str, tuple[str, ...]]) -> str:
    sources = "; ".join(f"[{source.document.title}], {_escaped(source.section)}" for source in requirement.sources)
    lines = [f"### {requirement.id}\n", f"**{requirement.level}**: {_escaped(requirement.statement)}\n"]
    lines.append(f"- source: {sources}")
    if len(requirement.rings) > 1:
        lines.append(f"- rings: {', '.join(requirement.rings)}")
    if requirement.transports:
        lines.append(f"- transports: {', '.join(requirement.transports)}")
    lines.append(f"- tests: {_functions(test for test, names in tests.items() if requirement.id in names)}")
    return "\n".join(lines) + "\n"


def _saboteur_table(catalogue: Catalogue) -> Iterable[str]:
    yield "| requirement | saboteur | what it breaks | noticed by |"
    yield "|---|---|---|---|"
    table = [
        (requirement.id, fault.saboteur)
        for requirement in catalogue
        for name in tables()
        for fault in faults(name)
        if requirement.id in fault.saboteur.requirements
    ]
    for name, saboteur in dict.fromkeys(table):
        yield f"| {name} | `{saboteur.name}` | {_prose(saboteur.what)} | {_functions(caught_by(saboteur, name))} |"


def _functions(tests: Iterable[str]) -> str:
    """Return tests as text: each function once, without its parameters."""
    names = (test.partition("[")[0].removeprefix("suites/") for test in tests)
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names)) or "none"


def _prose(docstring: str) -> str:
    """Return a line of a docstring as Markdown: what is code in one is so in the other."""
    parts = docstring.split("``")
    return "".join(f"`{part}`" if number % 2 else _escaped(part) for number, part in enumerate(parts))


def _escaped(text: str) -> str:
    return _SPECIAL.sub(lambda match: "\\" + match[0], text)


if __name__ == "__main__":
    DOCUMENT.write_text(document())
