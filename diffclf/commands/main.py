"""The command line: `diffclf COMMAND ...`.

Only the module of the chosen command is imported. A wrong command line, file or setting gives one line on stderr and
exit status 2; --debug shows where the error was raised.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module, metadata
from types import ModuleType
from typing import NoReturn

from typing_extensions import override

__all__ = ["build_parser", "main"]

COMMANDS = {
    "classify": "say what is on images",
    "evaluate": "accuracy on a folder with one sub-folder of images per class",
    "reproduce": "run the notebooks",
    "report": "build the HTML report of a run",
    "reference": "keep the results of the full profile as the reference",
    "train": "train an embedded model",
    "measure": "measure an embedded model for its card",
    "calibrate": "choose the race's threshold for an embedded model",
    "bench": "time the evaluator and the race against the plain loop",
}
"""Command -> what it is for. Its module, diffclf.commands.COMMAND, has add_arguments(parser) and run(args)."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises ValueError; `main` itself looks for --debug."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    @override
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, one of them with its arguments; raise ValueError if it lacks a package."""
    description = "Classify images with a conditional diffusion model, and reproduce the paper that showed how."
    parser = _Parser(prog="diffclf", description=description)
    parser.add_argument("--version", action="version", version=f"diffclf {metadata.version('diffclf')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == command:
            loaded = _import(name)
            loaded.add_arguments(sub)
            sub.set_defaults(run=loaded.run)
    return parser


def _import(command: str) -> ModuleType:
    """Import the module of a command, or say which package it lacks."""
    try:
        return import_module(f"diffclf.commands.{command}")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "diffclf":
            raise
        message = f"`diffclf {command}` needs the package {error.name}: pip install 'diffclf[notebooks,report]'"
        raise ValueError(message) from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 (a run that failed), 2 (an error), 130 (interrupted)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # These libraries' remarks (the image processor in use, each retry without a network) would hide the error's line.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    try:
        args = build_parser(next((word for word in argv if not word.startswith("-")), None)).parse_args(argv)
        status = args.run(args)
        sys.stdout.flush()  # here, where BrokenPipeError is still caught
        return status
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    except KeyboardInterrupt:
        print("\ndiffclf: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of the output has ended (`diffclf ... | head`). Nothing may be left for Python to flush at exit.
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 141
    except (ValueError, OSError, ArithmeticError) as error:
        if "--debug" in argv:
            traceback.print_exc()
        of_file = isinstance(error, OSError) and error.strerror and error.filename is not None
        message = f"{error.filename}: {error.strerror}" if of_file else str(error)
        print(f"diffclf: error: {' '.join(message.split()) or type(error).__name__}", file=sys.stderr)
        return 2
