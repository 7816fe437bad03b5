"""`diffclf reproduce`: run the notebooks, then build the report."""

import argparse

from diffclf.commands.extras import require
from diffclf.commands.options import add_notebook_arguments

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf reproduce`."""
    add_notebook_arguments(parser)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="print evaluations, time and downloads; run nothing")
    add("--jobs", type=int, help="notebooks at a time; they share the cores (default: 2, with a GPU 1)")
    add("--no-report", action="store_true", help="do not build the HTML report")


def run(args: argparse.Namespace) -> int:
    """Run the notebooks and build the report, or print what this would cost; return the exit status."""
    only, parameters = [name.strip() for name in args.only.split(",")], dict(args.parameters)
    report = not (args.dry_run or args.no_report)
    require("reproduce", "report" if report else "notebooks")
    from diffclf.workbook.run.cost import cost_report
    from diffclf.workbook.run.plan import plan
    from diffclf.workbook.run.runner import reproduce

    if args.dry_run:
        print(cost_report(plan(args.profile, only, parameters)))
        return 0
    status = reproduce(args.profile, only, parameters, args.jobs)
    if report:
        from diffclf.commands.report import print_report

        print("\nBuilding the report ...", flush=True)
        print_report(args.profile)
    return status
