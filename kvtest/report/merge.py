# SPDX-License-Identifier: Apache-2.0
"""Runs of the same tests on several hosts, as one."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from kvtest.conformance import Plan
from kvtest.report.results import Results, RunInfo


def merge(runs: Mapping[str, Results], command: str, not_run: Mapping[str, str] | None = None) -> Results:
    """Return runs as one, in which the ID of each test says on which host it ran.

    Args:
        runs: At least one run, by its host.
        command: The command line that repeats all of them.
        not_run: Why there is nothing of further hosts, by their names.
    """
    not_run = not_run or {}
    each = list(runs.values())
    common = set.intersection(*(set(run.run.properties.items()) for run in each))
    plan = Plan(
        requirements=tuple({one.id: one for run in each for one in run.run.plan.requirements}.values()),
        tests=tuple(
            attrs.evolve(test, id=on_host(test.id, host), variant=_variant(host, test.variant))
            for host, run in runs.items()
            for test in run.run.plan.tests
        ),
        transports=tuple(dict.fromkeys(one for run in each for one in run.run.plan.transports)),
        variants=(
            *(
                _variant(host, variant)
                for host, run in runs.items()
                for variant in (run.run.plan.variants if len(run.run.plan.variants) > 1 else ("",))
            ),
            *not_run,
        ),
    )
    tests = tuple(
        attrs.evolve(test, id=on_host(test.id, host), properties={**test.properties, "host": host})
        for host, run in runs.items()
        for test in run.tests
    )
    ends = [None if not_run else run.end for run in each]
    without = {"not_run": "; ".join(f"{host}: {reason}" for host, reason in not_run.items())} if not_run else {}
    return Results(
        RunInfo(
            start=min(run.run.start for run in each),
            hostname=", ".join(dict.fromkeys(run.run.hostname for run in each)),
            command=command,
            properties={**dict(sorted(common)), "host": ", ".join(runs), **without},
            plan=plan,
        ),
        tests,
        None if None in ends else max(end for end in ends if end is not None),
    )


def on_host(test: str, host: str) -> str:
    """Return a test's ID with its host as the last of its parameters.

    Args:
        test: The ID.
        host: The host.
    """
    return f"{test[:-1]}-{host}]" if test.endswith("]") else f"{test}[{host}]"


def _variant(host: str, variant: str) -> str:
    return f"{host} {variant}".rstrip()
