"""The workbook around the library: settings of the notebooks, their figures and claims, the runner and the report."""

from diffclf.workbook.workbook import Workbook

__all__ = ["Workbook"]
