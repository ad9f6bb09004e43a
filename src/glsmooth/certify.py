"""``python -m glsmooth.certify``, a face of :mod:`glsmooth.commands.certify`."""

from glsmooth.commands.certify import main

if __name__ == "__main__":
    main()
