"""One notebook in one process: `python -P worker.py`, the job as JSON on standard input.

papermill changes the working folder of its whole process, so each notebook has a process of its own. A run counts as
good only if papermill says of every cell that it ran and raised nothing; its own word for a cell, "completed", stands
on cells that a killed kernel never reached.

Standard output carries one line "CELL TOTAL" as each cell starts, and last a line of JSON with the outcome.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["execute"]


def _transport(folder: str) -> dict[str, str]:
    """Return settings that give the kernel its own sockets; files with a name of their own cannot collide."""
    return {"transport": "ipc", "ip": os.path.join(folder, "k")} if os.name == "posix" else {}


def execute(source: Path, target: Path, parameters: dict[str, Any], log: Path, timeout_s: int | None) -> str:
    """Run a notebook with its own folder as working folder; return "ok" or what went wrong in one line.

    Args:
        source: the committed notebook.
        target: the executed one, written after every cell: what ran before an error stays.
        parameters: override the cell tagged `parameters`.
        log: file that gets what the cells print.
        timeout_s: longest a cell may run; None: for ever.
    """
    import nbformat
    import papermill
    from traitlets.config import Config

    target.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    total = len(nbformat.read(source, as_version=4).cells)

    def announce(cell: object, cell_index: int) -> None:
        print(cell_index + 1, max(total, cell_index + 1), flush=True)

    sockets = tempfile.mkdtemp(prefix="dc")
    try:
        with log.open("w", encoding="utf-8") as output:
            done = papermill.execute_notebook(
                str(source),
                str(target),
                parameters,
                cwd=str(source.parent),
                progress_bar=False,
                stdout_file=output,
                stderr_file=output,
                start_timeout=180,
                execution_timeout=timeout_s,
                autosave_cell_every=30,
                on_cell_start=announce,
                # The solutions of the exercises are left out unless asked for.
                skip_cells_with_tag="" if os.environ.get("DIFFCLF_SOLUTIONS") else "solution",
                config=Config({"KernelManager": _transport(sockets)}),
            )
    except papermill.PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue} (in [{error.exec_count}])"
    except Exception as error:  # a dead kernel, a time-out, a kernel that never came up
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    finished = all(cell.metadata.papermill.exception is False for cell in done.cells)
    return "ok" if finished else "the kernel ended before the notebook did"


def main() -> None:
    """Run the job on standard input and print the outcome."""
    job = json.load(sys.stdin)
    status = execute(
        Path(job["source"]), Path(job["target"]), job["parameters"], Path(job["log"]), job.get("timeout_s")
    )
    print(json.dumps({"status": status}), flush=True)


if __name__ == "__main__":
    main()
