"""Reports of certify runs: tables, pictures, and a page that holds both."""

from glsmooth.report.page import write_report

__all__ = ["write_report"]
