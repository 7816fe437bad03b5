"""The HTML report of a run: pages that open from disk, with search and mathematics, and need no network."""

from diffclf.workbook.report.build import build_report

__all__ = ["build_report"]
