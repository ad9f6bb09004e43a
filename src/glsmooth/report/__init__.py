"""Reports of certify runs: tables, pictures, and a page that holds both."""

from glsmooth.report.page import write_report
from glsmooth.report.results import CertifyRun, Decision, load_run

__all__ = ["CertifyRun", "Decision", "load_run", "write_report"]
