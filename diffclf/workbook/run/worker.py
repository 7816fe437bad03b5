"""Runs one notebook in this process: `python -P worker.py JOB STATE`, JSON and the name of a file.

papermill changes the working folder of its whole process, so each notebook has a process of its own. A run is good if
papermill says of every cell that it ran and raised nothing; "completed" also stands on cells that a killed kernel never
reached.

The file STATE says which cell runs, and at the end "ok" or what went wrong; the exit status is then 0. Sockets of the
kernel are made beside it.

Standard input is a pipe that the runner holds open: its end means that the runner was killed. This process then ends,
and its kernel with it, so that nothing writes into a folder whose lock is gone.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

__all__ = ["execute"]


def execute(job: dict[str, Any], state: Path) -> str:
    """Run a notebook in its own folder; return "ok" or what went wrong.

    The job has `source`, the committed notebook; `target`, the executed one, which keeps all that ran before an error;
    `parameters`; `log`, a file for what the cells print; `timeout_s`, the longest time of a cell, or None; `solutions`,
    whether the exercises' solutions are run.
    """
    import nbformat
    import papermill
    from traitlets.config import Config

    n_cells = len(nbformat.read(job["source"], as_version=4).cells)

    def announce(cell: object, cell_index: int) -> None:
        state.write_text(f"cell {cell_index + 1}/{max(n_cells, cell_index + 1)}", encoding="utf-8")

    with open(job["log"], "w", encoding="utf-8") as log:
        # Sockets in a folder of their own cannot collide with those of another kernel, as ports can.
        transport = {"transport": "ipc", "ip": str(state.with_name("k"))} if os.name == "posix" else {}
        try:
            done = papermill.execute_notebook(
                job["source"],
                job["target"],
                job["parameters"],
                cwd=os.path.dirname(job["source"]),
                progress_bar=False,
                stdout_file=log,
                stderr_file=log,
                kernel_name="python3",  # this project's own, whatever kernel the file names, if any
                language="python",
                start_timeout=180,
                execution_timeout=job["timeout_s"],
                autosave_cell_every=30,
                on_cell_start=announce,
                skip_cells_with_tag="" if job["solutions"] else "solution",
                config=Config({"KernelManager": transport}),
            )
        except papermill.PapermillExecutionError as error:
            return f"{error.ename}: {error.evalue} (in [{error.exec_count}])"
        except Exception as error:  # a dead kernel, a time-out, a kernel that never came up
            return f"{type(error).__name__}: {error}"
    finished = all(cell.metadata.papermill.exception is False for cell in done.cells)
    return "ok" if finished else "the kernel ended before the notebook did"


def _end_with_the_runner() -> None:
    """Wait for the end of standard input, then end this process."""
    os.read(0, 1)  # not of sys.stdin, whose lock would be held when the interpreter ends
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=_end_with_the_runner, daemon=True).start()
    outcome = execute(json.loads(sys.argv[1]), Path(sys.argv[2]))
    Path(sys.argv[2]).write_text(outcome, encoding="utf-8")
