"""``python -m glsmooth.report``, a face of :mod:`glsmooth.commands.report`."""

from glsmooth.commands.mains import report as main

if __name__ == "__main__":
    main()
