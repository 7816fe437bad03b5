"""Figures: functions that take numbers and return a figure; one module per notebook, `nb00` to `nb04`."""
