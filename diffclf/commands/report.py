"""`diffclf report`: build the HTML report of a run."""

import argparse
import os

from diffclf.commands.extras import require

__all__ = ["add_arguments", "print_report", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf report`."""
    profile_help = "smoke, mini, full or paper (default: $DIFFCLF_PROFILE, else mini)"
    parser.add_argument("--profile", default="", help=profile_help)
    parser.add_argument("--strict", action="store_true", help="fail on a warning")


def print_report(profile: str, *, strict: bool = False) -> None:
    """Build the report and print where it is; raise ValueError if it cannot be built."""
    require("report", "report")
    from diffclf.workbook.report.build import build_report

    try:
        path = os.path.relpath(build_report(profile, strict=strict))
    except RuntimeError as error:  # Sphinx failed
        raise ValueError(str(error)) from error
    print(f"Report: {path}\nOpen it in a browser; it needs no network.")


def run(args: argparse.Namespace) -> int:
    """Build the report, print where it is, and return the exit status."""
    print_report(args.profile, strict=args.strict)
    return 0
