"""``python -m glsmooth.bounds``, a face of :mod:`glsmooth.commands.bounds`."""

from glsmooth.commands.bounds import main

if __name__ == "__main__":
    main()
