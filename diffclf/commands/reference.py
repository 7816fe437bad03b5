"""`diffclf reference`: keep the results of the full profile as the reference, with a table of them in the README."""

import argparse
import os
from pathlib import Path

from diffclf.files import write_whole
from diffclf.paths import home
from diffclf.workbook.display import SIGNS, interval, number
from diffclf.workbook.results import copy_reference, not_run, read_judged, read_run

__all__ = ["add_arguments", "results_table", "run", "with_results"]

QUESTIONS = {
    "exact-model-is-bayes": "With an exact denoiser, does the smallest error choose the class of Bayes' rule?",
    "nearest-rival-variance": "Is the difference to the nearest rival's error less variable on shared noise?",
    "middle-beats-low-noise": "Is one timestep in the middle better than one at which an image has little noise?",
    "single-timestep-plateau": "Are many noises at one timestep less accurate than many timesteps?",
    "staged-not-worse": "Does the paper's pruning keep the accuracy?",
    "l2-beats-vlb": "Is the squared error a better score than the terms of the variational bound?",
    "near-the-small-clip": "Is the diffusion classifier as accurate as a small CLIP trained on the same images?",
    "unfiltered-gains-overall": "Would training without the filter raise the accuracy?",
    "v-learns-relation": "Does a denoiser trained to predict v know relations better?",
    "near-the-largest-resnet": "Is the diffusion classifier as accurate as the largest ResNet?",
    "robust-on-a": "Is it more accurate than networks of its accuracy on adversarially filtered images?",
    "deletion-by-map-beats-random": "Does an error map show where the evidence is?",
    "first-step-gains": "Does more training of the diffusion model give a better classifier?",
    "guidance-hurts": "Does guidance lower the accuracy?",
    "race-beats-staged": "Is a race more accurate than the paper's pruning at equal cost?",
}
"""Claim -> what it asks: the rows of the README's table, one of each notebook."""
_START, _END = "<!-- results -->", "<!-- /results -->"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf reference`."""
    parser.add_argument("--profile", default="full", help="whose run to keep (default: full)")
    parser.add_argument("--only", default="", help="notebooks whose results to replace, as 05,09 (default: all)")


def results_table(folder: Path) -> str:
    """Return the results of a run's folder as a Markdown table, a row per claim of QUESTIONS that the run judged."""
    judged = {claim["id"]: claim for claim in read_judged(folder)}
    lines = ["| question | paper | reference run | verdict |", "|---|---|---|---|"]
    for claim, question in ((judged[id], question) for id, question in QUESTIONS.items() if id in judged):
        paper = "–" if claim["paper"] is None else f"{number(claim['paper'])} {claim['unit']}"
        found = f"{number(claim['estimate'])} {interval(claim)} {claim['unit']}"
        lines.append(f"| {question} | {paper} | {found} | {SIGNS[claim['verdict']]} {claim['words']} |")
    if missing := not_run(read_run(folder)):
        lines += ["", f"Not in the reference run: {', '.join(missing)}."]
    return "\n".join(lines)


def with_results(text: str, table: str) -> str:
    """Return a text with the table between its two markers; raise ValueError unless it has both once, in order."""
    before, start, rest = text.partition(_START)
    _, end, after = rest.partition(_END)
    if not (start and end) or _START in after or _END in before + after:
        raise ValueError(f"README.md must have one line {_START} and, after it, one line {_END}")
    return f"{before}{start}\n{table}\n{end}{after}"


def run(args: argparse.Namespace) -> int:
    """Copy the run, bring the README's table up to date, print where both are, and return the exit status.

    The README belongs to the checkout: it stays as it is where the reports are kept elsewhere ($DIFFCLF_REPORTS).
    """
    folder, readme = copy_reference(args.profile, [name.strip() for name in args.only.split(",")]), home() / "README.md"
    print(f"Reference: {os.path.relpath(folder)}")
    if folder == home() / "reports" / "reference":
        write_whole(readme, with_results(readme.read_text(encoding="utf-8"), results_table(folder)))
        print(f"Table of results: {os.path.relpath(readme)}")
    return 0
