"""What a certificate speaks of: a transformation with its smoothing laws, and a region of its parameters."""

from glsmooth.family.regions import Ball, Box, Points, Region
from glsmooth.family.smoothed import SmoothedFamily

__all__ = ["Ball", "Box", "Points", "Region", "SmoothedFamily"]
