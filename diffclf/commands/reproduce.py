"""`diffclf reproduce`: run the notebooks, then build the report."""

import argparse
import os

from diffclf.workbook.report import build_report
from diffclf.workbook.run.cost import cost_report
from diffclf.workbook.run.plan import plan
from diffclf.workbook.run.runner import reproduce
from diffclf.workbook.settings import default_profile

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf reproduce`."""
    parser.add_argument(
        "--profile", default="", help="smoke, mini, full or paper (default: $DIFFCLF_PROFILE, else mini)"
    )
    parser.add_argument("--only", default="", metavar="01,03", help="numbers or names of notebooks, by commas")
    parser.add_argument(
        "-p",
        dest="parameters",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="set a parameter in every notebook that has it; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="print evaluations, time and downloads; run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time; they share the cores (default: 1)")
    parser.add_argument("--no-report", action="store_true", help="do not build the HTML report")


def run(args: argparse.Namespace) -> int:
    """Run the notebooks and build the report, or print what this would cost; return the exit status."""
    profile, only = args.profile or default_profile(), [name.strip() for name in args.only.split(",")]
    if args.dry_run:
        print(cost_report(plan(profile, only, dict(args.parameters))))
        return 0
    status = reproduce(profile, only, dict(args.parameters), args.jobs)
    if not args.no_report:
        print("\nBuilding the report ...", flush=True)
        print(f"Report: {os.path.relpath(build_report(profile))}")
    return status
