"""The commands. Each is a module with a ``main``, which other processes can import."""
