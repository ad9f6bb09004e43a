"""Pictures for papers and meetings: :mod:`glsmooth.report.paper.figures`, which users know as ``glsmooth.figures``."""

from glsmooth.report.paper import figures

__all__ = ["figures"]
