"""Families and regions that the tests of bounds share: the paper's table, and laws beyond it."""

from dataclasses import dataclass

import glsmooth as gs

T = gs.transforms
N, LN, R = gs.Normal, gs.LogNormal, gs.Rayleigh


@dataclass(frozen=True)
class Row:
    """A row of the table: NP, GL product, GL ode and printed values at the worst corner, from the literature."""

    name: str
    family: gs.SmoothedFamily
    region: gs.Box
    worst: dict
    np: float
    gl: float
    ode: float
    printed: float


def family(transform, image_size=None, **laws):
    return gs.SmoothedFamily(transform, laws, image_size)


ROWS = [
    Row(
        "contrast_brightness", family(T.ContrastBrightness(), contrast=LN(0, 0.6), brightness=N(0, 0.6)),
        gs.Box(contrast=(0.5, 2.0), brightness=(-0.4, 0.4)), {"contrast": 0.5, "brightness": 0.4},
        0.92221, 0.92645, 0.92645, 0.7992,
    ),
    Row(
        "gamma_contrast", family(T.GammaContrast(), gamma=R(0.1), contrast=LN(0, 0.1)),
        gs.Box(gamma=(0.8, 1.4), contrast=(0.6, 2.0)), {"gamma": 1.4, "contrast": 2.0},
        0.85829, 0.86231, 0.85884, 0.6659,
    ),
    Row(
        "brightness_translation", family(T.BrightnessTranslation(), brightness=N(0, 0.4), tx=N(0, 30), ty=N(0, 30)),
        gs.Box(brightness=(-0.2, 0.2), tx=(-56, 56), ty=(-56, 56)), {"brightness": 0.2, "tx": 56, "ty": 56},
        0.99639, 0.99639, 0.99639, 0.9104,
    ),
    Row(
        "contrast_translation", family(T.ContrastTranslation(), contrast=LN(0, 0.4), tx=N(0, 30), ty=N(0, 30)),
        gs.Box(contrast=(0.5, 2.0), tx=(-56, 56), ty=(-56, 56)), {"contrast": 0.5, "tx": 56, "ty": 56},
        0.99921, 0.99924, 0.99924, 0.9496,
    ),
    Row(
        "translation", family(T.Translation(), tx=N(0, 50), ty=N(0, 50)),
        gs.Box(tx=(-56, 56), ty=(-56, 56)), {"tx": 56, "ty": 56},
        0.94339, 0.94339, 0.94339, 0.7858,
    ),
    Row(
        "contrast_brightness_translation",
        family(T.ContrastBrightnessTranslation(), contrast=LN(0, 0.8), brightness=N(0, 0.8), tx=N(0, 50), ty=N(0, 50)),
        gs.Box(contrast=(0.8, 1.5), brightness=(-0.2, 0.2), tx=(-25, 25), ty=(-25, 25)),
        {"contrast": 1.5, "brightness": 0.2, "tx": 25, "ty": 25},
        0.82805, 0.83116, 0.83002, 0.6764,
    ),
    Row(
        "translation_blur_brightness_contrast",
        family(
            T.TranslationBlurBrightnessContrast(),
            tx=N(0, 30), ty=N(0, 30), blur=R(2), contrast=LN(0, 0.8), brightness=N(0, 0.8),
        ),
        gs.Box(tx=(-3, 3), ty=(-3, 3), blur=(1, 3), brightness=(-0.1, 0.1), contrast=(0.95, 1.05)),
        {"tx": 3, "ty": 3, "blur": 3, "brightness": 0.1, "contrast": 0.95},
        0.97308, 0.97310, 0.97309, 0.8455,
    ),
    Row(
        "gamma_up", family(T.Gamma(), gamma=R(0.1)), gs.Box(gamma=(1, 2)), {"gamma": 2.0},
        0.93750, 0.93750, 0.93750, 0.7221,
    ),
    Row(
        "gamma_down", family(T.Gamma(), gamma=R(0.1)), gs.Box(gamma=(0.5, 1)), {"gamma": 0.5},
        0.84090, 0.84090, 0.84090, 0.7261,
    ),
]  # fmt: skip

#: Laws and orders beyond the table: name -> (family, region).
OTHERS = {
    "brightness": (family(T.Brightness(), brightness=N(0, 0.3)), gs.Box(brightness=(-0.4, 0.4))),
    "brightness uniform": (
        family(T.Brightness(), brightness=gs.Uniform(-1, 1)),
        gs.Box(brightness=(-0.4, 0.3)),
    ),
    "brightness rayleigh": (family(T.Brightness(), brightness=R(0.5)), gs.Box(brightness=(-0.3, 0.3))),
    "brightness laplace": (family(T.Brightness(), brightness=gs.Laplace(0.1, 0.3)), gs.Box(brightness=(-0.3, 0.2))),
    "laplace brightness after contrast": (
        family(T.ContrastBrightness(), contrast=LN(0, 0.6), brightness=gs.Laplace(0, 0.5)),
        gs.Box(contrast=(0.9, 1.2), brightness=(-0.2, 0.2)),
    ),
    "laplace brightness first": (
        family(T.ContrastBrightness(order="brightness_first"), contrast=LN(0, 0.6), brightness=gs.Laplace(0.1, 0.5)),
        gs.Box(contrast=(0.9, 1.2), brightness=(-0.2, 0.1)),
    ),
    "contrast": (family(T.Contrast(), contrast=LN(0, 0.4)), gs.Box(contrast=(0.6, 1.5))),
    "contrast rayleigh": (family(T.Contrast(), contrast=R(1.0)), gs.Box(contrast=(0.7, 1.3))),
    "contrast exponential": (family(T.Contrast(), contrast=gs.Exponential(1.0)), gs.Box(contrast=(0.7, 1.3))),
    "contrast half-normal": (family(T.Contrast(), contrast=gs.HalfNormal(1.0)), gs.Box(contrast=(0.7, 1.3))),
    "contrast uniform": (family(T.Contrast(), contrast=gs.Uniform(0.0, 2.0)), gs.Box(contrast=(0.7, 1.3))),
    "blur exponential": (family(T.GaussianBlur(), blur=gs.Exponential(0.3)), gs.Box(blur=(0, 2))),
    "blur rayleigh": (family(T.GaussianBlur(), blur=R(2.0)), gs.Box(blur=(0, 2))),
    "blur half-normal": (family(T.GaussianBlur(), blur=gs.HalfNormal(3.0)), gs.Box(blur=(0, 2))),
    "blur log-normal": (family(T.GaussianBlur(), blur=LN(0.5, 0.5)), gs.Box(blur=(0, 0.8))),
    "blur uniform": (family(T.GaussianBlur(), blur=gs.Uniform(0, 5)), gs.Box(blur=(0, 2))),
    "brightness first": (
        family(T.ContrastBrightness(order="brightness_first"), contrast=LN(0, 0.6), brightness=N(0, 0.6)),
        gs.Box(contrast=(0.6, 1.5), brightness=(-0.3, 0.3)),
    ),
    "uniform brightness after contrast": (
        family(T.ContrastBrightness(), contrast=LN(0, 0.6), brightness=gs.Uniform(-1, 1)),
        gs.Box(contrast=(0.9, 1.2), brightness=(-0.2, 0.2)),
    ),
    "rayleigh contrast, brightness": (
        family(T.ContrastBrightness(), contrast=R(1.0), brightness=N(0, 0.6)),
        gs.Box(contrast=(0.7, 1.3), brightness=(-0.3, 0.3)),
    ),
}

TORUS = {
    "torus 32, narrow": (family(T.Translation(), (32, 32), tx=N(0, 3), ty=N(0, 3)), gs.Box(tx=(-3, 3), ty=(-3, 3))),
    "torus 32, wide": (family(T.Translation(), (32, 32), tx=N(0, 6), ty=N(0, 6)), gs.Box(tx=(-20, 20), ty=(-20, 20))),
    "torus 32, skewed": (
        family(T.Translation(), (32, 24), tx=R(5), ty=gs.Exponential(0.2)), gs.Box(tx=(-4, 6), ty=(-3, 3)),
    ),
}  # fmt: skip
