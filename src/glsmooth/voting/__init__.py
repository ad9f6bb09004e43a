"""Votes of the smoothed classifier: draws, procedures, and the engine that takes them on a device."""
