"""``python -m glsmooth.certify``, a face of :mod:`glsmooth.commands.certify`."""

from glsmooth.commands.mains import certify as main

if __name__ == "__main__":
    main()
