"""From dictionaries to objects: what fields may hold, what they build, and what decides a result."""
