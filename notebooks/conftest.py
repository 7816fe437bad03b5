"""Lets nbval compare the stored outputs of stripped notebooks.

nbstripout removes the execution count of every cell, also of those whose outputs it keeps; nbval takes a cell without a
count for one that was never run and refuses its outputs.
"""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each cell that has stored outputs a count."""
    for item in items:
        if getattr(item, "cell", None) is not None and item.cell.outputs:
            item.cell.execution_count = 1
