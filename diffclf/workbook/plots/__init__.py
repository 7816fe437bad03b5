"""Figures: functions that take numbers and return a figure; one module per notebook, `nb00` to `nb04`."""

from diffclf.workbook.plots.style import set_style

__all__ = ["set_style"]
