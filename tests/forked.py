"""The command line many times for one import of the libraries it uses, which takes longer than what most calls then do.

`Commands` starts a process that imports these and forks for every call. Each call is `python -m capture.cli.main`, or a script, in a process
of its own: its own arguments, folder, environment and output, with `capture` and `warehouse` imported anew, from bytecode that
the first call leaves. What the libraries read of the environment when they are imported (HF_HOME, …) is as at the first call; a
call that is about that, or about standard input, takes a process from scratch (the fixture `traces`), and so do those that are
killed.
"""

from __future__ import annotations

import atexit
import gc
import json
import multiprocessing
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

MODULE = "capture.cli.main"


class Commands:
    """Owns the process that forks; `close` ends it."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def run(self, args: Sequence[str], timeout: float, script: Path | None = None) -> tuple[int, str, str]:
        """Exit code (negative: the signal that ended it), standard output and error; of a script, where one is named."""
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            call = {"args": args, "cwd": str(Path.cwd()), "env": dict(os.environ), "out": str(out), "err": str(err)}
            call["script"] = script and str(script)
            print(json.dumps(call), file=self._server.stdin, flush=True)
            pid = int(self._server.stdout.readline())
            if not select.select([self._server.stdout], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                self._server.stdout.readline()
                raise subprocess.TimeoutExpired(args, timeout, out.read_text("utf-8"), err.read_text("utf-8"))
            code = int(self._server.stdout.readline())
            return code, out.read_text("utf-8"), err.read_text("utf-8")

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()


def _serve() -> None:
    """Forks for every line of standard input, and answers with two: the process, and how it ended."""
    # What the commands would each import.
    import duckdb  # noqa: F401
    import lancedb  # noqa: F401
    import matplotlib.backends.backend_agg  # noqa: F401
    import matplotlib.backends.backend_svg  # noqa: F401
    import ml_dtypes  # noqa: F401
    import rich.progress  # noqa: F401
    import rich.table  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import sqlglot  # noqa: F401
    import typer  # noqa: F401
    from transformers import (  # noqa: F401
        AutoModelForCausalLM,
        AutoTokenizer,
        GPT2LMHeadModel,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
        Trainer,
        conversion_mapping,
    )

    # What the first model that is loaded would compile: a thousand regular expressions.
    conversion_mapping.get_checkpoint_conversion_mapping("llama")

    gc.collect()
    gc.freeze()  # or a forked process would copy what it only looks through
    # lancedb starts its thread again in a forked process, and warns that another might have been at work: here none is.
    warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as bytecode:
        sys.pycache_prefix, sys.dont_write_bytecode = bytecode, False
        while line := sys.stdin.readline():
            process = fork.Process(target=_call, kwargs=json.loads(line))
            process.start()
            print(process.pid, flush=True)
            process.join()
            print(process.exitcode, flush=True)


def _call(args: list[str], cwd: str, env: dict[str, str], out: str, err: str, script: str | None) -> None:
    """In the forked process: the command line or a script, as a process that was started for it meets it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    for number, path, flag in ((0, os.devnull, os.O_RDONLY), (1, out, flags), (2, err, flags)):
        opened = os.open(path, flag, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv[1:] = args
    atexit._clear()  # what was asked for in the process that forks is for its own end
    try:
        if script is None:
            sys.path.insert(0, cwd)  # as `python -m` does
            runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(script).parent))
            sys.argv[0] = script
            runpy.run_path(script, run_name="__main__")
    finally:
        atexit._run_exitfuncs()


if __name__ == "__main__":
    sys.path.pop(0)  # the folder of the tests: a command does not see it
    _serve()
