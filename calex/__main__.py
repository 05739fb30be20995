"""The command line: `python -m calex COMMAND` runs one step of the pipeline by hand, as the workflow runs it."""

from __future__ import annotations

import argparse
import ast
import errno
import importlib
import os
import sys

from calex import __version__
from calex.errors import CalexError, suggestion
from calex.plugins.modules import PACKAGE
from calex.system import memory

# In pipeline order; the last ones are for people.
COMMANDS = (
    "prepare-dataset",
    "measure-taps",
    "train-backbone",
    "cache-features",
    "train-branch",
    "train-branches",
    "weigh-survivors",
    "calibrate",
    "evaluate",
    "pareto",
    "compare",
    "report",
    "heads",
    "subsets",
    "export",
    "predict",
    "latency",
    "taps",
    "inspect",
    "verify",
    "certify",
    "benchmark",
    "report-benchmarks",
    "sizes",
    "quote",
)


# OpenMP reads these when torch is loaded. A thread that spins while it waits occupies a core that the thread it waits for may
# need: beside one busy process two threads were three to five times as slow. So they spin for microseconds only. No result
# depends on it.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}


def docstring(command: str) -> str:
    """What a command does, read from its file: asking for help never imports torch."""
    source = (PACKAGE / "steps" / f"{command.replace('-', '_')}.py").read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)) or ""


READER_GONE = 141  # the exit code of a program that SIGPIPE ends


def main(arguments: list[str] | None = None) -> int:
    """Run one command and give its exit code. A reader that stops early (`| head`) is not an error and causes no traceback."""
    try:
        try:
            return run(sys.argv[1:] if arguments is None else arguments)
        finally:  # what is still in a buffer is written to the closed pipe here, and not when the interpreter ends
            sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        return READER_GONE


def run(arguments: list[str]) -> int:
    """Do what the words of a command line ask for, `[command, option, …]`, and give the exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: python -m calex COMMAND [--help | options]\n\nThe steps of the pipeline, in pipeline order:\n")
        for command in COMMANDS:
            print(f"  {command:<17} {docstring(command).splitlines()[0]}")
        print(
            "\nThe workflow calls exactly these: `snakemake -n --printshellcmds results/pareto_digits.html` prints the lines."
        )
        return 0
    command, *rest = arguments
    if command == "--version":
        print(__version__)
        return 0
    if command not in COMMANDS:
        print(f"calex: error: unknown command '{command}', {suggestion(command, COMMANDS)}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(
        prog=f"python -m calex {command}", description=docstring(command), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lower = ""
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    try:
        step = importlib.import_module(f"calex.steps.{command.replace('-', '_')}")
        step.add_arguments(parser)
        lower = getattr(step, "LOWER", "")
        step.run(parser.parse_args(rest))
    except CalexError as error:
        print(f"calex {command}: error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        raise
    except (MemoryError, OSError, RuntimeError) as error:
        if memory.ran_out(error):
            remedy = f"lower {lower}, or give the step more memory" if lower else "give the step more memory"
            print(f"calex {command}: error: {memory.described(error)}; {remedy}", file=sys.stderr)
            return 2
        if not isinstance(error, OSError):
            raise
        remedy = "make room and rerun" if error.errno == errno.ENOSPC else "check the path and its permissions"
        where = f"{error.filename}: " if error.filename else ""
        print(f"calex {command}: error: {where}{error.strerror or error}; {remedy}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"calex {command}: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
