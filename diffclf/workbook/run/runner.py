"""Runs the notebooks of a profile, one process each.

Results go to reports/PROFILE (`diffclf.workbook.results`). A notebook that fails keeps what it had done and stops no
other; the exit status tells.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from tqdm import tqdm

from diffclf.files import write_json
from diffclf.workbook import settings
from diffclf.workbook.display import claims_table
from diffclf.workbook.provenance import duration, environment
from diffclf.workbook.results import forget, read_judged, read_metrics
from diffclf.workbook.run.plan import Job, plan

__all__ = ["reproduce"]

_CORES = os.cpu_count() or 1
_CHECKOUT = Path(__file__).resolve().parents[3]


def _child_environment(n_parallel: int, offline: bool, progress: Path) -> dict[str, str]:
    """Return the environment of a notebook's process: its share of the cores, and offline where the profile says so."""
    threads = str(max(1, _CORES // n_parallel))
    chosen = {
        "DIFFCLF_REPORTS": str(settings.reports_dir()),
        "DIFFCLF_NOTEBOOKS": str(settings.notebooks_dir()),
        "DIFFCLF_PROGRESS": str(progress),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads) if n_parallel == 1 else threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JUPYTER_PREFER_ENV_PATH": "1",
        # The notebooks import this diffclf and no other.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_CHECKOUT), os.environ.get("PYTHONPATH", "")])),
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "default"),
    }
    if offline:
        chosen |= dict.fromkeys(settings.OFFLINE, "1")
    return {name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"} | chosen


def _read(path: Path) -> str:
    """Return the text of a file that another process writes, on one line; "" where there is none yet."""
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split()) if path.is_file() else ""


def _execute(job: Job, profile: str, n_parallel: int, stop: Event) -> str:
    """Run one notebook in a process of its own; return "ok" or what went wrong."""
    if job.problem:
        return job.problem
    folder = settings.reports_dir(profile)
    for name in ("notebooks", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    order = {
        "source": str(job.source),
        "target": str(folder / "notebooks" / job.source.name),
        "log": str(folder / "logs" / f"{job.name}.log"),
        "parameters": job.parameters,
        "timeout_s": job.settings["timeout_s"],
    }
    with (
        tempfile.TemporaryDirectory(prefix="dc") as scratch,
        (folder / "logs" / f"{job.name}.worker").open("w") as messages,
        tqdm(bar_format="{elapsed} {desc}", disable=None, leave=False) as line,
    ):
        state, progress = Path(scratch) / "state", Path(scratch) / "progress"
        process = subprocess.Popen(
            # worker.py as a file, not as a module (-m), which would import all of diffclf
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), json.dumps(order), str(state)],
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            env=_child_environment(n_parallel, job.settings["offline"], progress),
            start_new_session=True,  # an interrupt of the terminal reaches this process alone
        )
        while process.poll() is None:
            if stop.is_set():
                process.terminate()  # its kernel ends with it
            line.set_description_str(f"{job.name[:2]} {_read(state)} {_read(progress)}"[:100])
            time.sleep(0.2)
        if stop.is_set():
            return "the run was interrupted"
        return _read(state) if process.returncode == 0 else f"the worker ended with status {process.returncode}"


def _record(job: Job, profile: str, status: str, seconds: float, facts: Mapping[str, Any]) -> None:
    """Write how a notebook's run went ("ok", "running", or what went wrong), with the facts that it recorded itself."""
    folder = settings.reports_dir(profile)
    own = read_metrics(folder, job.name).get("provenance", {})
    record = {
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
    write_json(folder / "runs" / f"{job.name}.json", record)


def _run_all(jobs: Sequence[Job], profile: str, n_parallel: int) -> list[bool]:
    """Run the jobs, that many at a time; return which came to their end."""
    facts, stop = environment(), Event()

    def run(job: Job) -> bool:
        began = time.monotonic()
        folder = settings.reports_dir(profile)
        forget(folder, job.name)
        (folder / "notebooks" / job.source.name).unlink(missing_ok=True)
        _record(job, profile, "running", 0, facts)
        status = _execute(job, profile, n_parallel, stop)
        seconds = time.monotonic() - began
        _record(job, profile, status, seconds, facts)
        tqdm.write(f"ok      {job.name}  {duration(seconds)}" if status == "ok" else f"FAILED  {job.name}  {status}")
        sys.stdout.flush()
        return status == "ok"

    with ThreadPoolExecutor(n_parallel) as pool:
        try:
            return list(pool.map(run, jobs))
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def reproduce(
    profile: str = "", only: Sequence[str] = (), parameters: Mapping[str, Any] | None = None, n_parallel: int = 1
) -> int:
    """Run notebooks and print a line for each, then the claims and their verdicts.

    Args:
        profile: "": $DIFFCLF_PROFILE, else mini.
        only: numbers or names of notebooks; none: all.
        parameters: values for every notebook that declares them; text is converted to the declared type.
        n_parallel: notebooks at a time; they share the cores.

    Returns:
        Exit status: 0 if every notebook ran to its end, else 1.

    Raises:
        ValueError: unknown profile, notebook or parameter, or one of the wrong type; nothing has run then.
    """
    profile = profile or settings.default_profile()
    if n_parallel < 1:
        raise ValueError(f"--jobs must be at least 1, got {n_parallel}")
    jobs, began = plan(profile, only, parameters), time.monotonic()
    print(f"{len(jobs)} notebooks, profile {profile}", flush=True)
    good = _run_all(jobs, profile, n_parallel)
    print(f"{sum(good)} of {len(good)} notebooks ran to their end in {duration(time.monotonic() - began)}\n")
    print(claims_table(read_judged(settings.reports_dir(profile))))
    return 0 if all(good) else 1
