"""Runs the notebooks of a profile, one process each, and says what became of the claims.

Results go to reports/PROFILE: the executed notebooks, their logs, and run.json, with parameters, seed, versions,
commit, hardware, threads, wall time and model of every notebook. A notebook that fails keeps what it had done and stops
no other; the exit status says so in the end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any

from diffclf.workbook import settings
from diffclf.workbook.cost import remarks, report_cost
from diffclf.workbook.figures import SIGNS, number
from diffclf.workbook.plan import Job, plan
from diffclf.workbook.provenance import environment
from diffclf.workbook.results import read_judged, read_run, short_path, text_table, write_json

__all__ = ["add_arguments", "claims_table", "reproduce", "run"]

_CORES = os.cpu_count() or 1
_PACKAGES = Path(__file__).resolve().parents[2]  # so that notebooks import this diffclf and no other


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _child_environment(profile: str, jobs: int, offline: bool, progress: Path) -> dict[str, str]:
    """Return the environment of a notebook's process: its share of the cores, and offline where the profile says so."""
    threads = str(max(1, _CORES // jobs))
    chosen = {
        "DIFFCLF_PROFILE": profile,
        "DIFFCLF_REPORTS": str(settings.reports_dir()),
        "DIFFCLF_NOTEBOOKS": str(settings.notebooks_dir()),
        "DIFFCLF_PROGRESS": str(progress),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads) if jobs == 1 else threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH", "")])),
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "default"),
    }
    if offline:
        chosen |= dict.fromkeys(settings.OFFLINE, "1")
    inherited = {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"}
    return inherited | chosen


@dataclass
class _Board:
    """The line that shows what is running, redrawn in place on a terminal, absent elsewhere."""

    running: dict[str, str] = field(default_factory=dict)
    lock: Lock = field(default_factory=Lock)
    live: bool = field(default_factory=lambda: sys.stderr.isatty())

    def update(self, name: str, state: str | None) -> None:
        """Change what is shown for a notebook; None: it is done."""
        with self.lock:
            self.running.pop(name, None) if state is None else self.running.__setitem__(name, state)
            if self.live:
                line = "   ".join(f"{name[:2]} {state}" for name, state in self.running.items())
                print(f"\r\033[K{line[:118]}", end="", file=sys.stderr, flush=True)

    def say(self, line: str) -> None:
        """Print a line that stays."""
        with self.lock:
            if self.live:
                print("\r\033[K", end="", file=sys.stderr, flush=True)
            print(line, flush=True)


def _last_line(path: Path) -> str:
    """Return the newest state of a progress bar that redraws itself into a file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").strip().rpartition("\n")[2]
    except OSError:
        return ""


def _watch(process: subprocess.Popen[str], job: Job, board: _Board, progress: Path) -> str:
    """Follow a worker to its end; return the status it reports."""
    began, cell, status = time.monotonic(), "starting", ""

    def read() -> None:
        nonlocal cell, status
        for line in process.stdout or ():
            if line.startswith("{"):
                status = json.loads(line)["status"]
            elif line.strip():
                cell = "cell " + "/".join(line.split())

    with ThreadPoolExecutor(1) as reader:
        done = reader.submit(read)
        while not done.done():
            bar = _last_line(progress)
            board.update(job.name, f"{_clock(time.monotonic() - began)} {cell}{' ' + bar if bar else ''}")
            try:
                done.result(timeout=1 if board.live else 60)
            except TimeoutError:
                continue
    code = process.wait()
    return status or f"the worker ended with status {code} before the notebook did"


def _stop(process: subprocess.Popen[str]) -> None:
    """End a worker and its kernel."""
    if process.poll() is None:
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGTERM)
        else:
            process.terminate()


def _execute(job: Job, profile: str, jobs: int, board: _Board, alive: list[subprocess.Popen[str]]) -> str:
    """Run one notebook in a process of its own; return "ok" or what went wrong."""
    if job.problem:
        return job.problem
    folder = settings.reports_dir(profile)
    order = {
        "source": str(job.source),
        "target": str(folder / "notebooks" / job.source.name),
        "log": str(folder / "logs" / f"{job.name}.log"),
        "parameters": job.parameters,
        "timeout_s": job.settings.get("timeout_s"),
    }
    with (
        tempfile.TemporaryDirectory(prefix="dc") as scratch,
        (folder / "logs" / f"{job.name}.worker").open("w") as errors,
    ):
        progress = Path(scratch) / "progress"
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                str(Path(__file__).with_name("worker.py")),
            ],  # not -m: that would import all of diffclf
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            env=_child_environment(profile, jobs, bool(job.settings.get("offline")), progress),
            start_new_session=os.name == "posix",  # so that the worker can be ended together with its kernel
        )
        alive.append(process)
        try:
            with process.stdin as channel:
                channel.write(json.dumps(order))
            return _watch(process, job, board, progress)
        finally:
            _stop(process)
            process.wait()
            process.stdout.close()
            alive.remove(process)


def _record(job: Job, profile: str, status: str, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """Return what run.json says of a notebook; what the notebook itself recorded goes before what the runner knows.

    status: "ok", "running", or what went wrong.
    """
    path = settings.reports_dir(profile) / "metrics" / f"{job.name}.json"
    metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    own = metrics.get("provenance", {})
    return {
        "status": status if status in ("ok", "running") else "failed",
        "error": {"ok": "", "running": "the run was interrupted"}.get(status, status),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": job.parameters,
        "settings": own.get("settings", job.settings),
        "seed": own.get("seed", job.settings.get("seed")),
        "model": own.get("model"),
        "environment": own.get("environment", facts),
    }


def _forget(job: Job, folder: Path) -> None:
    """Remove what an earlier run of the notebook left, so that a failure cannot hide behind it."""
    for path in (
        folder / "notebooks" / job.source.name,
        *(folder / kind / f"{job.name}.json" for kind in ("claims", "metrics")),
    ):
        path.unlink(missing_ok=True)


def _run_all(todo: Sequence[Job], profile: str, jobs: int) -> list[bool]:
    """Run the jobs, that many at a time, and keep run.json up to date; return which came to their end."""
    folder = settings.reports_dir(profile)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    board, alive, facts = _Board(), [], environment()
    records, lock = read_run(folder), Lock()
    facts["threads"] = int(_child_environment(profile, jobs, False, folder)["OMP_NUM_THREADS"])

    def note(job: Job, status: str, seconds: float) -> None:
        with lock:
            records[job.name] = _record(job, profile, status, seconds, facts)
            write_json(folder / "run.json", {"profile": profile, "notebooks": dict(sorted(records.items()))})

    def work(job: Job) -> bool:
        started = time.monotonic()
        _forget(job, folder)
        note(job, "running", 0)
        status = _execute(job, profile, jobs, board, alive)
        seconds = time.monotonic() - started
        note(job, status, seconds)
        board.update(job.name, None)
        line = f"{'ok    ' if status == 'ok' else 'FAILED'} {job.name}  {_clock(seconds)}"
        board.say(line if status == "ok" else f"{line}  {status}")
        return status == "ok"

    with ThreadPoolExecutor(jobs) as pool:
        try:
            return list(pool.map(work, todo))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(alive):
                _stop(process)
            raise


def reproduce(
    profile: str = "",
    only: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    jobs: int = 1,
) -> int:
    """Run notebooks and print one line for each, then the claims and their verdicts.

    Args:
        profile: "": $DIFFCLF_PROFILE, else mini.
        only: numbers or names of notebooks; none: all.
        parameters: overrides, for every notebook that declares them; text is converted to the declared type.
        dry_run: print what it would cost and run nothing.
        jobs: notebooks at a time; they share the cores.

    Returns:
        Exit status: 0 if every notebook ran to its end, else 1.

    Raises:
        ValueError: unknown profile, notebook or parameter, or one of the wrong type; nothing has run then.
    """
    profile = profile or settings.default_profile()
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    todo = plan(profile, only, parameters)
    if dry_run:
        print(text_table(report_cost(todo, profile), ["notebook", "evaluations", "time", "downloads"]))
        for line in remarks(todo):
            print(line)
        return 0
    began = time.monotonic()
    print(f"{len(todo)} notebooks, profile {profile}", flush=True)
    good = _run_all(todo, profile, jobs)
    print(f"{sum(good)} of {len(good)} notebooks ran to their end in {_clock(time.monotonic() - began)}\n")
    print(claims_table(settings.reports_dir(profile)))
    return 0 if all(good) else 1


def claims_table(folder: Path) -> str:
    """Return the claims of a profile's folder with their verdicts, a line each; tests before analogues."""
    judged = sorted(read_judged(folder), key=lambda claim: claim["kind"] != "test")
    if not judged:
        return "No claims were judged."
    rows = []
    for claim in judged:
        low, high = (number(float("nan") if claim[end] is None else claim[end]) for end in ("low", "high"))
        rows.append(
            [
                claim["notebook"][:2],
                claim["id"] + ("" if claim["kind"] == "test" else " (analogue)"),
                number(claim["paper"]),
                f"{number(claim['estimate'])} [{low}, {high}]",
                claim["unit"],
                f"{SIGNS[claim['verdict']]} {claim['verdict'] or 'not judged'}",
            ]
        )
    table = text_table(rows, ["", "claim", "paper", "this run", "unit", "verdict"])
    worlds = sorted({claim["world"] for claim in judged if claim["world"] and claim["verdict"]})
    return table + (f"\nVerdicts are about {' and '.join(worlds)}." if worlds else "")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `diffclf reproduce`."""
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
        help="override a parameter in every notebook that has it; may be repeated",
    )
    parser.add_argument("--dry-run", action="store_true", help="print evaluations, time and downloads; run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks at a time; they share the cores (default: 1)")
    parser.add_argument("--no-report", action="store_true", help="do not build the HTML report")


def run(args: argparse.Namespace) -> int:
    """Run `diffclf reproduce`: the notebooks, then the report; return the exit status."""
    profile = args.profile or settings.default_profile()
    only = [name.strip() for name in args.only.split(",")]
    status = reproduce(profile, only, dict(args.parameters), args.dry_run, args.jobs)
    if args.dry_run or args.no_report:
        return status
    from diffclf.workbook.report import build_report

    print("\nBuilding the report ...", flush=True)
    page = build_report(profile)
    print(f"Report: {short_path(page)}")
    return status
