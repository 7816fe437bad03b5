"""Jobs on an exact model, quick to load, whose workers meet with accidents; importable by the workers of the tests."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from bank_killer import make_model

from diffclf.bank import ErrorBank
from diffclf.engines import Job


@dataclass(frozen=True)
class Exact(Job):
    """Writes a line for each image that a worker finishes: its process and the image's key.

    With `kills` the first worker that has finished two images kills itself.
    """

    log: Path = Path("log")
    kills: bool = False

    def open(self, device=None):
        bank = ErrorBank(self.bank.parent, make_model(), self.prompts, self.strategy.trial_list(), **self.options)
        assert bank.path == self.bank
        save, died = bank.save, self.log.with_name("died")

        def save_and_log(key, prompts, errors):
            save(key, prompts, errors)
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {key}\n")
            own = [line for line in self.log.read_text().splitlines() if line.startswith(f"{os.getpid()} ")]
            if self.kills and len(own) == 2:
                try:
                    died.mkdir()  # by one worker alone
                except FileExistsError:
                    return
                os.kill(os.getpid(), signal.SIGKILL)

        bank.save = save_and_log
        return bank


@dataclass(frozen=True)
class Deadly(Exact):
    """Kills its worker at every block."""

    def fill(self, bank, items):
        os.kill(os.getpid(), signal.SIGKILL)
