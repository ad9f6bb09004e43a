"""``python -m glsmooth.train``, a face of :mod:`glsmooth.commands.train`."""

from glsmooth.commands.mains import train as main

if __name__ == "__main__":
    main()
