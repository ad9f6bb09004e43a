"""The pictures of docs/threats.md, again; they need no run: python docs/draw_threats.py"""

import torch
from draw import save
from sklearn.datasets import load_digits
from torch import Tensor

import glsmooth as gs


def digit() -> Tensor:
    """The fourth of scikit-learn's digits, a three, as ``dataset=digits`` has it: 32×32, 8 bits."""
    small = torch.tensor(load_digits().images[3:4], dtype=torch.float32)[None] / 16
    large = torch.nn.functional.interpolate(small, size=(32, 32), mode="bilinear")[0]
    return (large * 255).round() / 255


def main() -> None:
    threat = gs.threats.Rotation(mask="disk", round8=True)
    save(gs.figures.residuals(digit(), threat, -30, 30, residual=0.4, width="full"), "threat_residuals")
    save(gs.figures.reference_balls(digit(), threat, -30, 30, residual=0.4), "threat_balls")


if __name__ == "__main__":
    main()
