"""``python -m glsmooth.advise``, a face of :mod:`glsmooth.commands.advise`."""

from glsmooth.commands.mains import advise as main

if __name__ == "__main__":
    main()
