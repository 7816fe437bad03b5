"""`diffclf verify`: run notebooks again and compare their numbers with the reference."""

import argparse
import os
from pathlib import Path

from diffclf.commands.extras import require

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf verify`."""
    add = parser.add_argument
    add("--only", default="", metavar="01,03", help="numbers or names of notebooks, by commas")
    add("--seed", type=int, default=0, help="seed of the noise (default: 0, that of the reference)")
    add("--folder", type=Path, metavar="DIR", help="where the new run goes (default reports/verify, or verify-SEED)")
    add("--jobs", type=int, help="notebooks at a time; they share the cores (default: 2, with a GPU 1)")


def run(args: argparse.Namespace) -> int:
    """Run the full profile in a folder of its own, with an error bank of its own: nothing stored is read.

    Returns 0 if every notebook ran and no number differs, else 1.
    """
    require("verify", "notebooks")
    from diffclf.workbook import settings
    from diffclf.workbook.comparison import TOLERANCE, compare_claims, compare_numbers
    from diffclf.workbook.results import read_run
    from diffclf.workbook.run.plan import choose
    from diffclf.workbook.run.runner import reproduce

    reference = settings.reports_dir("reference")
    stored = read_run(reference)
    only = [name.strip() for name in args.only.split(",")]
    notebooks = [path.stem for path in choose(only) if path.stem in stored]
    if not notebooks:
        raise ValueError(f"notebooks must be in the reference run ({', '.join(stored) or 'none'}), got {args.only!r}")
    if missing := [path.stem for path in choose(only) if path.stem not in stored]:
        print(f"Not in the reference run: {', '.join(missing)}")
    folder = args.folder or settings.reports_dir(f"verify-{args.seed}" if args.seed else "verify")
    os.environ["DIFFCLF_REPORTS"] = str(folder.resolve())
    status = reproduce("full", notebooks, {"seed": args.seed} if args.seed else {}, args.jobs)
    if args.seed:
        n, lines = compare_claims(folder / "full", reference, notebooks)
        rule = f"seed {args.seed}: two-sample tests, Holm's correction, level 5%"
    else:
        n, lines = compare_numbers(folder / "full", reference, notebooks)
        rule = f"same seed, equal to {TOLERANCE:g}"
    print(f"\n{n} numbers compared with {os.path.relpath(reference)} ({rule}): {len(lines) or 'none'} differ")
    print("\n".join(lines))
    return 1 if lines or status else 0
