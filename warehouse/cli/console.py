"""The command `traces console`: the page over the warehouse, served to this machine's own browser."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from warehouse.cli.app import App
from warehouse.cli.console_export import export
from warehouse.cli.option_groups import Panel
from warehouse.cli.options import WarehouseOption
from warehouse.cli.terminal import note, say
from warehouse.errors import UsageError

console_app = App()
console_app.command("export")(export)


@console_app.callback()
def console(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            help="Load a model, so that the page can capture and generate with it.",
            rich_help_panel=Panel.RUNNING,
        ),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port",
            min=1,
            max=65535,
            help="The port; by default the first that is free from 8765 on.",
            show_default=False,
            rich_help_panel=Panel.RUNNING,
        ),
    ] = None,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Open the page in the browser.", rich_help_panel=Panel.RUNNING),
    ] = True,
    host: Annotated[
        str,
        typer.Option("--host", help="The address to listen at.", rich_help_panel=Panel.RUNNING),
    ] = "127.0.0.1",
    expose: Annotated[
        bool,
        typer.Option(
            "--expose",
            help="Let others reach it with a --host that is not this machine alone: whoever has the token reads all texts and "
            "runs queries here, over a connection that anybody on the way can read.",
            rich_help_panel=Panel.RUNNING,
        ),
    ] = False,
    warehouse: WarehouseOption = None,
) -> None:
    """Open a page in the browser over everything that the warehouse holds.

    The page is for you alone: the server listens on this machine only, and answers to nobody without the token in the address that
    it prints. Ctrl-C stops it.

    Examples:
        traces console
        traces console --model smollm2
        traces console --no-browser --port 9000

    Raises:
        UsageError: It cannot be started; the message says what is missing.
    """
    if context.invoked_subcommand is not None:
        if warehouse is not None:  # `traces console -w DIR export …` means the same as `traces console export … -w DIR`
            context.default_map = {context.invoked_subcommand: {"warehouse": str(warehouse)}}
        return
    _check_installed()
    from warehouse.console.page import NOT_BUILT, is_built
    from warehouse.console.server import is_loopback, listen, serve
    from warehouse.warehouse import Warehouse

    if not is_built():
        raise UsageError(NOT_BUILT)
    if not is_loopback(host):
        if not expose:
            raise UsageError(
                f"--host {host} lets others reach the console: whoever gets hold of its token reads all texts and runs queries on "
                "this machine, and nothing is encrypted. Add --expose if you mean that; `ssh -L` needs neither."
            )
        note(f"warning: the console listens at {host}, for whoever has the token; nothing is encrypted")

    with Warehouse(warehouse, every_file=True) as wh:

        def started(url: str) -> None:
            say(f"The console of {wh.root} is at {url}")
            say("Ctrl-C stops it.")
            sys.stdout.flush()
            if browser:
                _open(url)

        serve(wh, listen(host, port), model, started)


def _check_installed() -> None:
    """Check that what the server runs on is installed.

    Raises:
        UsageError: It is not.
    """
    from importlib.util import find_spec

    if missing := [name for name in ("fastapi", "uvicorn", "threadpoolctl") if find_spec(name) is None]:
        raise UsageError(f"The console needs {' and '.join(missing)}: pip install 'trace-warehouse[console]'")


def _open(url: str) -> None:
    """Open an address in the browser, where there is a screen to show it on: a browser in the terminal would take the terminal over."""
    import threading
    import webbrowser

    if sys.platform.startswith("linux") and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        return
    threading.Thread(target=webbrowser.open, args=[url], daemon=True).start()
