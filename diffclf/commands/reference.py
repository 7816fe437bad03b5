"""`diffclf reference`: keep the results of the full profile as the reference."""

import argparse
import os

from diffclf.workbook.results import copy_reference

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf reference`."""
    parser.add_argument("--profile", default="full", help="whose run to keep (default: full)")


def run(args: argparse.Namespace) -> int:
    """Copy the run, print where it is, and return the exit status."""
    print(f"Reference: {os.path.relpath(copy_reference(args.profile))}")
    return 0
