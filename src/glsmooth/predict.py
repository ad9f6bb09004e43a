"""``python -m glsmooth.predict``, a face of :mod:`glsmooth.commands.predict`."""

from glsmooth.commands.mains import predict as main

if __name__ == "__main__":
    main()
