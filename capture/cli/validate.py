"""`traces runs validate`: check a run, and with --deep run its model again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from capture.cli.options import LoadOptions
from capture.cli.terminal import needs_capture_extra
from warehouse.cli.option_groups import Panel, with_groups
from warehouse.cli.options import JsonOption, RunArgument, WarehouseOption
from warehouse.cli.terminal import note, say
from warehouse.errors import TracesError


@with_groups(fixed={"revision": None, "dtype": "auto", "device": "auto", "device_map": None})
def validate(
    run: RunArgument,
    loading: LoadOptions,
    deep: Annotated[
        bool,
        typer.Option(
            "--deep", help="Also run the model again on a sample, and compare.", rich_help_panel=Panel.COMPUTED
        ),
    ] = False,
    warehouse: WarehouseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a run: checksums, shapes, keys, values, tokens against text, attention, the residual stream.

    Exit code 0 if everything is sound, else 1.

    Examples:
        traces runs validate wt2 --deep

    Raises:
        TracesError: A check failed.
    """
    import json
    from dataclasses import asdict

    from warehouse.storage import paths
    from warehouse.storage.run_list import find_run
    from warehouse.validation.check import Check
    from warehouse.validation.validate import validate as run_checks

    folder = find_run(paths.find_root(warehouse), run)
    done: list[Check] = []

    def print_checks(checks: Iterator[Check]) -> None:
        for check in checks:
            done.append(check)
            if not as_json:
                mark = {True: "ok  ", False: "FAIL", None: "--  "}[check.passed]
                say(f"{mark} {check.name}: {check.detail}")

    print_checks(run_checks(folder))
    if deep and all(c.passed is not False for c in done):
        with needs_capture_extra():
            from capture.verification.replay_check import recheck
        print_checks(recheck(folder, loading.trust_remote_code, note))
    if as_json:
        typer.echo(json.dumps([asdict(c) for c in done], indent=1))
    failed = [c.name for c in done if c.passed is False]
    if failed:
        raise TracesError(f"Run '{run}' is not sound: {', '.join(failed)}.")
