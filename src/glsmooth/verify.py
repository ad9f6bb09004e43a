"""``python -m glsmooth.verify``, a face of :mod:`glsmooth.commands.verify`."""

from glsmooth.commands.verify import main

if __name__ == "__main__":
    main()
