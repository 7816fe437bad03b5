"""`diffclf bank`: what is in banks, made one of several, and undamaged (`diffclf.bank`).

    show PATH            the banks of a folder: model, prompts, trials, images, size, versions
    merge PATH OTHER..   take the entries of other folders of banks over into PATH
    verify PATH          read every entry and say which are damaged; exit status 1 if there are some

PATH is a folder of banks, as `diffclf evaluate --bank` takes it, or the folder of one bank.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from diffclf.bank import StoredBank, write_entry
from diffclf.files import write_json
from diffclf.texttable import plural, printable, text_table

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line of `diffclf bank`."""
    actions = {
        "show": (_show, "list the banks of a folder"),
        "merge": (_merge, "take the entries of other folders over"),
        "verify": (_verify, "read every entry and name the damaged ones"),
    }
    parser.add_argument(
        "action", choices=actions, help="; ".join(f"{name}: {what}" for name, (_, what) in actions.items())
    )
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of banks, or the folder of one bank")
    parser.add_argument("others", type=Path, nargs="*", default=[], metavar="OTHER", help="folders to merge into PATH")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.set_defaults(actions={name: act for name, (act, _) in actions.items()})


def run(args: argparse.Namespace) -> int:
    """Do what is asked for and return the exit status."""
    if (args.action == "merge") != bool(args.others):
        raise ValueError(
            f"merge needs the folders to merge into PATH, show and verify take PATH alone, got {args.action}"
        )
    return args.actions[args.action](args)


def _folders(path: Path) -> list[Path]:
    """Return the folders of the banks in a folder; raise ValueError if there is none."""
    if (path / "bank.json").is_file():
        return [path]
    if found := sorted(file.parent for file in path.glob("*/bank.json")) if path.is_dir() else []:
        return found
    got = "no bank.json in it" if path.is_dir() else "a file" if path.exists() else "no such folder"
    hint = f"; did you mean {path / 'bank'}?" if any(path.glob("bank/*/bank.json")) else ""  # results of `evaluate`
    raise ValueError(f"{path} must be a folder of banks or the folder of one bank, got {got}{hint}")


def _facts(bank: StoredBank) -> dict[str, Any]:
    """Return what `show` prints of a bank."""
    own, files = bank.identity, bank.entries()
    return {
        "bank": bank.path.name,
        "weights": own["weights"],
        "dtype": str(own.get("dtype")).removeprefix("torch."),
        "prompts": "own" if bank.n_prompts is None else bank.n_prompts,
        "trials": bank.n_each[0],
        "seed": own.get("seed"),
        "losses": " ".join(own["losses"]),
        "images": len(files),
        "MB": round(sum(path.stat().st_size for path in files) / 1e6, 3),
        "versions": " ".join(f"{name} {version}" for name, version in bank.versions.items()),
    }


def _show(args: argparse.Namespace) -> int:
    """Print a line per bank."""
    found = [_facts(StoredBank(path)) for path in _folders(args.path)]
    print(
        json.dumps(found, indent=1)
        if args.json
        else text_table([list(found[0]), *(map(str, f.values()) for f in found)])
    )
    return 0


def _verify(args: argparse.Namespace) -> int:
    """Print the damaged entries and a sum; return 1 if there are some."""
    damaged: list[str] = []
    n_entries = 0
    for path in _folders(args.path):
        try:
            bank = StoredBank(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        files = bank.entries()
        n_entries += len(files)
        damaged += [
            f"{file} is damaged; a run that needs it computes it anew" for file in files if bank.read(file) is None
        ]
    if args.json:
        print(json.dumps({"entries": n_entries, "damaged": damaged}, indent=1))
    else:
        print("\n".join([*map(printable, damaged), f"{_entries(n_entries)} read, {len(damaged)} damaged"]))
    return 1 if damaged else 0


def _entries(n: int) -> str:
    return "1 entry" if n == 1 else f"{n} entries"


def _merge(args: argparse.Namespace) -> int:
    """Take entries over; return 1 if damaged ones were left out."""
    others = [StoredBank(folder) for other in args.others for folder in _folders(other)]
    pairs = [(bank, args.path / bank.path.name) for bank in others]
    for path in (path for _, path in pairs if path.exists()):  # before anything is written
        StoredBank(path)  # raises if it is not the bank that its name says
    counts = {"new": 0, "completed": 0, "unchanged": 0, "damaged": 0}
    for bank, path in pairs:
        if bank.path == path.resolve():
            raise ValueError(f"{bank.path} must not be merged into itself")
        if not path.exists():
            write_json(path / "bank.json", {"identity": bank.identity, "versions": bank.versions})
        target = StoredBank(path)
        for file in bank.entries():
            counts[_take(bank, file, target)] += 1
    summary = ", ".join(f"{n} {name}" for name, n in counts.items())
    print(json.dumps(counts) if args.json else f"{plural(len(pairs), 'bank')}: entries {summary}")
    return 1 if counts["damaged"] else 0


def _take(bank: StoredBank, file: Path, target: StoredBank) -> str:
    """Take an entry over and say what became of it: the union of the errors, where both have one the target's."""
    found, path = bank.read(file), target.path / file.name
    if found is None:
        return "damaged"
    known = target.read(path) if path.is_file() else None
    if known is None or known.size != found.size:
        write_entry(path, found)
        return "new"
    merged = np.where(np.isnan(known), found, known)
    if np.array_equal(np.isnan(merged), np.isnan(known)):
        return "unchanged"
    write_entry(path, merged)
    return "completed"
