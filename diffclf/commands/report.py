"""`diffclf report`: build the HTML report of a run."""

import argparse
import os

from diffclf.workbook.report.build import build_report

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf report`."""
    profile_help = "smoke, mini, full or paper (default: $DIFFCLF_PROFILE, else mini)"
    parser.add_argument("--profile", default="", help=profile_help)
    parser.add_argument("--strict", action="store_true", help="fail on a warning")


def run(args: argparse.Namespace) -> int:
    """Build the report, print where it is, and return the exit status."""
    print(f"Report: {os.path.relpath(build_report(args.profile, strict=args.strict))}")
    return 0
