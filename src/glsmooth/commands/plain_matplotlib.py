"""Imports matplotlib by :func:`glsmooth.report.defaults.import_matplotlib`.

Lightning would import it, and read the settings of the working directory; so its users import this before.
"""

from glsmooth.report.defaults import import_matplotlib

import_matplotlib()
