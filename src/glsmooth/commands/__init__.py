"""The commands. Each is a module with a ``run`` and a ``main``, which other processes can import."""
