"""``python -m glsmooth.export``, a face of :mod:`glsmooth.commands.export`."""

from glsmooth.commands.mains import export as main

if __name__ == "__main__":
    main()
