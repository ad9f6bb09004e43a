"""``python -m glsmooth.sweep``, a face of :mod:`glsmooth.commands.sweep`."""

from glsmooth.commands.sweep import main

if __name__ == "__main__":
    main()
