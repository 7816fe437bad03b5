"""The projection: exact where the answer is known, and equal to what was measured on the task it was measured on."""

import numpy as np
import pytest

from diffclf import Racing, Staged
from diffclf.workbook.projection import project, projection_table
from diffclf.workbook.study import _remaining


def test_by_hand():
    # 8 trials of all 10, 8 more of the winner and a third of 9 rivals, nothing more once none is left
    assert project(10, [8, 16, 24], [1 / 3, 0, 0]) == 80 + 8 * 4
    assert project(100, [8, 16], [0.1, 0.1]) == 800 + 8 * (1 + 9.9)


def test_a_measured_task_is_hardly_overestimated():
    rng, race = np.random.default_rng(0), Racing(threshold=2.0)
    tables = rng.normal(0, 1, (40, 8, 128)) + rng.normal(0, 1, (40, 8, 1))
    left = _remaining(race, tables)
    spent = np.mean([list(race.rounds(table))[-1].n_evaluations for table in tables])
    # dearer only by the winner's own trials where several rivals are left on one image and none on another
    assert spent <= project(8, **left) <= 1.25 * spent


def test_a_row_for_every_data_set():
    tasks = {"a": {"remaining": {"trials": [8, 16], "rivals_left": [0.5, 0]}}}
    table = projection_table({"Pets": [37, [5, 1], [25, 250], 0]}, tasks)
    assert table.loc["Pets", "paper's schedule"] == Staged((25, 250), (5, 1)).evaluations(37)
    assert table.loc["Pets", "race, as on a"] == pytest.approx(8 * 37 + 8 * 19)
