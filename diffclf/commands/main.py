"""The command line: `diffclf COMMAND ...`.

Only the module of the chosen command is imported. A wrong command line, file or setting gives one line on stderr and
exit status 2; --debug shows where the error was raised. Little is imported before `main` can catch an interrupt.
"""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from diffclf import __version__
from diffclf.texttable import printable

__all__ = ["build_parser", "main"]

COMMANDS = {
    "classify": "say what is on images",
    "evaluate": "accuracy on a folder with one sub-folder of images per class, or on a data set",
    "bank": "show, merge or verify banks of errors",
    "baseline": "accuracy of CLIP, synthetic data or features on such a folder",
    "reproduce": "run the notebooks",
    "report": "build the HTML report of a run",
    "doctor": "say what the notebooks lack on this machine, and how long they will take",
    "verify": "run the full profile again and compare it with the reference",
    "reference": "keep the results of the full profile as the reference",
    "train": "train an embedded model",
    "measure": "measure an embedded model for its card",
    "score": "store what the models of an experiment answer",
    "calibrate": "choose the race's threshold for an embedded model",
    "bench": "time the evaluator and the race against the plain loop; what a fleet of GPUs costs",
}
"""Command -> what it is for. Its module, diffclf.commands.COMMAND, has add_arguments(parser) and run(args)."""


class _Parser(argparse.ArgumentParser):
    """A parser that raises ValueError; `main` itself looks for --debug."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options, allow_abbrev=False)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, one of them with its arguments; raise ValueError if it lacks a package."""
    description = "Classify images with a conditional diffusion model, and reproduce the paper that showed how."
    parser = _Parser(prog="diffclf", description=description)
    parser.add_argument("--version", action="version", version=f"diffclf {__version__}")
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


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of the chosen command, its function `run` among them."""
    command = next((word for word in argv if not word.startswith("-")), None)
    args, unknown = build_parser(command).parse_known_args(argv)
    if unknown:
        is_label = getattr(args, "labels", None) and not unknown[0].startswith("-")
        hint = "separate labels by commas: --labels A,B; " if is_label else ""
        raise ValueError(f"unrecognized arguments: {' '.join(unknown)} ({hint}see `diffclf {command} --help`)")
    return args


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interrupt end the process at once: libraries that are being imported may catch the exception."""

    def leave(*_: object) -> NoReturn:
        os.write(2, b"\ndiffclf: interrupted\n")
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _flushed() -> bool:
    """Write what stdout still holds; if that fails, throw it away and return False."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "w") as nowhere:  # nothing may be left for Python to flush at exit
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return False
    return True


def _message(error: Exception) -> str:
    """Return an error's message on one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:
        place = error.filename if _flushed() else "standard output"
        text = error.strerror if place is None else f"{place}: {error.strerror}"
    return printable(" ".join(text.split())) or type(error).__name__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Exit status: 0, 1 (a run that failed), 2 (an error), 130 (interrupted) or 141 (nobody reads the output).
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    # These libraries' remarks (the image processor in use, each retry without a network) would hide the error's line.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    if sys.stderr is None:  # closed; `print` would take stdout instead
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    try:
        if sys.stdout is None:
            raise ValueError("standard output is closed")
        with _interruptible():
            args = _parse(argv)
        status = args.run(args)
        sys.stdout.flush()  # here, where BrokenPipeError is still caught
        return status
    except SystemExit as stop:  # --help
        return int(stop.code or 0) if _flushed() else 141
    except KeyboardInterrupt:
        _flushed()
        print("\ndiffclf: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of the output has ended (`diffclf ... | head`)
        _flushed()
        return 141
    except (ValueError, OSError, ArithmeticError, MemoryError) as error:
        if "--debug" in argv:
            import traceback

            traceback.print_exc()
        print(f"diffclf: error: {_message(error)}", file=sys.stderr)
        return 2
