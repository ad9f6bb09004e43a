"""Semantic transformations: their action on images and their resolving functions."""

from glsmooth.transforms.base import ResolvableTransform
from glsmooth.transforms.blur import GaussianBlur
from glsmooth.transforms.compose import (
    BrightnessTranslation,
    Composition,
    ContrastBrightnessTranslation,
    ContrastTranslation,
    TranslationBlurBrightnessContrast,
)
from glsmooth.transforms.factors import PowerThenScale, Scale, ScaleThenShift, Shift, ShiftThenScale
from glsmooth.transforms.identity import Identity
from glsmooth.transforms.intensity import Brightness, Contrast, ContrastBrightness, Gamma, GammaContrast
from glsmooth.transforms.translation import Translation

#: The built-in transformations by name. Identity, which has no parameters, is for Python alone.
BUILTIN: dict[str, type[ResolvableTransform]] = {
    transform.name: transform
    for transform in (
        Brightness,
        Contrast,
        Gamma,
        Translation,
        GaussianBlur,
        ContrastBrightness,
        GammaContrast,
        BrightnessTranslation,
        ContrastTranslation,
        ContrastBrightnessTranslation,
        TranslationBlurBrightnessContrast,
    )
}

__all__ = [
    "BUILTIN",
    "Brightness",
    "BrightnessTranslation",
    "Composition",
    "Contrast",
    "ContrastBrightness",
    "ContrastBrightnessTranslation",
    "ContrastTranslation",
    "Gamma",
    "GammaContrast",
    "GaussianBlur",
    "Identity",
    "PowerThenScale",
    "ResolvableTransform",
    "Scale",
    "ScaleThenShift",
    "Shift",
    "ShiftThenScale",
    "Translation",
    "TranslationBlurBrightnessContrast",
]
