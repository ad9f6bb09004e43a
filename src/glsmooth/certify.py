"""``python -m glsmooth.certify``, a face of :mod:`glsmooth.commands.certify`."""

from glsmooth.report.defaults import import_matplotlib

import_matplotlib()  # Lightning would, and read the working directory's settings

# isort: split
from glsmooth.commands.certify import main  # noqa: E402

if __name__ == "__main__":
    main()
