"""Run directories: what a certification writes, and how it is read back."""
