"""``python -m glsmooth.report``, a face of :mod:`glsmooth.commands.report`."""

from glsmooth.commands.report import main

if __name__ == "__main__":
    main()
