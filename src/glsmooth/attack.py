"""``python -m glsmooth.attack``, a face of :mod:`glsmooth.commands.attack`."""

from glsmooth.commands.mains import attack as main

if __name__ == "__main__":
    main()
