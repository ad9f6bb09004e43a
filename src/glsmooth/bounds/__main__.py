"""``python -m glsmooth.bounds``, a face of :mod:`glsmooth.commands.bounds`."""

from glsmooth.commands.mains import bounds as main

if __name__ == "__main__":
    main()
