"""`traces runs validate`: check a run, and with --deep run its model again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from capture.cli.options import TrustOption
from capture.cli.terminal import needs_capture_extra
from warehouse.cli.options import RunArgument, WarehouseOption
from warehouse.cli.terminal import note, say
from warehouse.errors import TracesError


def validate(
    run: RunArgument,
    warehouse: WarehouseOption = None,
    deep: Annotated[bool, typer.Option("--deep", help="Also run the model again on a sample, and compare.")] = False,
    trust_remote_code: TrustOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check a run: checksums, shapes, keys, values, tokens against text, attention, the residual stream.

    Exit code 0 where all is sound, 1 where anything is not. Example: `traces runs validate wt2 --deep`
    """
    import json
    from dataclasses import asdict

    from warehouse.storage import paths
    from warehouse.storage.paths import find_run
    from warehouse.validation.check import Check
    from warehouse.validation.validate import validate as checks_of

    folder = find_run(paths.find_root(warehouse), run)
    found: list[Check] = []

    def tell(checks: Iterator[Check]) -> None:
        for check in checks:
            found.append(check)
            if not as_json:
                mark = {True: "ok  ", False: "FAIL", None: "--  "}[check.passed]
                say(f"{mark} {check.name}: {check.detail}")

    tell(checks_of(folder))
    if deep and all(c.passed is not False for c in found):
        with needs_capture_extra():
            from capture.verification.replay_check import recheck
        tell(recheck(folder, trust_remote_code, note))
    if as_json:
        typer.echo(json.dumps([asdict(c) for c in found], indent=1))
    failed = [c.name for c in found if c.passed is False]
    if failed:
        raise TracesError(f"Run '{run}' is not sound: {', '.join(failed)}.")
