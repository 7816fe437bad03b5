"""Runs the notebooks of a profile, one process each.

Results go to reports/PROFILE (`diffclf.workbook.results`), which one run at a time may use. A notebook that fails keeps
what it had done and stops no other; the exit status tells.
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
from diffclf.paths import checkout
from diffclf.texttable import plural, printable
from diffclf.workbook import settings
from diffclf.workbook.display import claims_table
from diffclf.workbook.provenance import duration, environment
from diffclf.workbook.results import forget, read_judged, read_metrics
from diffclf.workbook.run.lock import locked
from diffclf.workbook.run.plan import Job, plan

__all__ = ["reproduce"]

INTERRUPTED = "the run was interrupted"


def _child_environment(n_parallel: int, offline: bool, progress: Path) -> dict[str, str]:
    """Return the environment of a notebook's process: its share of the threads, and offline where the profile says so.

    The threads to share are those of OMP_NUM_THREADS, or one a core.
    """
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    threads = int(given) if given.isdigit() else os.cpu_count() or 1
    return {
        **{name: value for name, value in os.environ.items() if name != "JPY_SESSION_NAME"},
        "DIFFCLF_REPORTS": str(settings.reports_dir()),
        "DIFFCLF_NOTEBOOKS": str(settings.notebooks_dir()),
        "DIFFCLF_PROGRESS": str(progress),
        "OMP_NUM_THREADS": str(max(1, threads // n_parallel)),
        "OMP_WAIT_POLICY": "PASSIVE",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JUPYTER_PREFER_ENV_PATH": "1",
        # The notebooks import this diffclf and no other; an installed one they find by themselves.
        "PYTHONPATH": os.pathsep.join(filter(None, [str(checkout() or ""), os.environ.get("PYTHONPATH", "")])),
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "default"),
        **(dict.fromkeys(settings.OFFLINE, "1") if offline else {}),
    }


def _read(path: Path) -> str:
    """Return the text of a file that another process writes, on one line; "" where there is none yet."""
    return " ".join(path.read_text(encoding="utf-8", errors="replace").split()) if path.is_file() else ""


def _execute(job: Job, folder: Path, n_parallel: int, stop: Event) -> str:
    """Run one notebook in a process of its own; return "ok" or what went wrong."""
    if job.problem:
        return job.problem
    for name in ("notebooks", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    order = {
        "source": str(job.source),
        "target": str(folder / "notebooks" / job.source.name),
        "log": str(folder / "logs" / f"{job.name}.log"),
        "parameters": job.parameters,
        "timeout_s": job.settings["timeout_s"],
        "solutions": job.settings["solutions"],
    }
    with (
        tempfile.TemporaryDirectory(prefix="dc", ignore_cleanup_errors=True) as scratch,
        (folder / "logs" / f"{job.name}.worker").open("w") as messages,
        tqdm(bar_format="{elapsed} {desc}", disable=None, leave=False) as line,
    ):
        state, progress = Path(scratch) / "state", Path(scratch) / "progress"
        process = subprocess.Popen(
            # worker.py as a file, not as a module (-m), which would import all of diffclf
            [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), json.dumps(order), str(state)],
            stdin=subprocess.PIPE,  # closed when this process ends, however that happens: the worker then ends, too
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
        process.stdin.close()
        if stop.is_set():
            return INTERRUPTED
        return _read(state) if process.returncode == 0 else f"the worker ended with status {process.returncode}"


def _record(job: Job, folder: Path, status: str, error: str, seconds: float, facts: Mapping[str, Any]) -> None:
    """Write how a notebook's run went (status: ok, running or failed), with the facts that it recorded itself."""
    own = {"settings": job.settings, "seed": job.settings.get("seed"), "model": None, "environment": facts}
    own |= read_metrics(folder, job.name).get("provenance", {})
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"status": status, "error": error, "seconds": round(seconds, 1), "finished": finished}
    write_json(folder / "runs" / f"{job.name}.json", {**record, "parameters": job.parameters, **own})


def reproduce(
    profile: str = "",
    only: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    n_parallel: int | None = None,
) -> int:
    """Run notebooks and print a line for each, then the claims and their verdicts.

    The first three arguments are those of `plan`, which raises ValueError before anything runs, as does another run of
    the profile that has not ended. `n_parallel` notebooks run at a time and share the cores; by default two, with
    a GPU one. Returns the exit status: 0 if every notebook ran to its end, else 1.
    """
    if n_parallel is not None and n_parallel < 1:
        raise ValueError(f"--jobs must be at least 1, got {n_parallel}")
    profile = settings.chosen_profile(profile)
    jobs, folder, began = plan(profile, only, parameters), settings.reports_dir(profile), time.monotonic()
    facts, stop = environment(), Event()
    n_parallel = min(n_parallel or (1 if facts["gpus"] else 2), len(jobs))
    print(f"{plural(len(jobs), 'notebook')}, profile {profile}", flush=True)

    def run(job: Job) -> bool:
        began = time.monotonic()
        forget(folder, job.name)
        (folder / "notebooks" / job.source.name).unlink(missing_ok=True)
        _record(job, folder, "running", INTERRUPTED, 0, facts)
        outcome, seconds = _execute(job, folder, n_parallel, stop), time.monotonic() - began
        good = outcome == "ok"
        _record(job, folder, "ok" if good else "failed", "" if good else outcome, seconds, facts)
        word = "ok" if good else "stopped" if outcome == INTERRUPTED else "FAILED"
        tqdm.write(f"{word:7} {job.name}  {duration(seconds) if good else printable(outcome)}")
        sys.stdout.flush()
        return good

    with locked(folder, f"profile {profile}"), ThreadPoolExecutor(n_parallel) as pool:
        read_judged(folder, without=[job.name for job in jobs])  # a malformed record of an earlier run: an error now
        try:
            good = list(pool.map(run, jobs))
        except KeyboardInterrupt:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    print(f"{sum(good)} of {plural(len(good), 'notebook')} ran to the end in {duration(time.monotonic() - began)}\n")
    print(claims_table(read_judged(folder)))
    return 0 if all(good) else 1
