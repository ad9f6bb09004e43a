"""The pictures of the tutorial, again, after make demo: python docs/draw.py"""

from pathlib import Path

from PIL import Image

import glsmooth as gs
from glsmooth.runs.run import load_run

IMAGES = Path(__file__).parent / "images"
RUN = Path("outputs/demo/certify")


def main() -> None:
    run = load_run(RUN)
    region = gs.Box(contrast=(0.7, 1.4), brightness=(-0.2, 0.2))
    wide = gs.Box(contrast=(0.4, 2.5), brightness=(-0.6, 0.6))
    votes = gs.figures.Votes(run.family, wide, run.p_lower, run.correct, run)
    draws = run.draws
    assert draws is not None
    p_lower = float(run.p_lower[list(run.columns["index"]).index(draws.index)])
    figures = {
        "certified_set": gs.figures.certified_set(run.family, p_lower, draws.image, region=region),
        "cra_plane": gs.figures.cra_plane(votes),
        "cra_region": gs.figures.cra_against_region_size(votes),
    }
    for name, figure in figures.items():
        save(figure, name)


def save(figure, name: str) -> None:
    """A picture of docs/images, small."""
    file = IMAGES / f"{name}.png"
    figure.savefig(file, dpi=200)
    with Image.open(file) as picture:
        picture.convert("RGB").quantize(64).save(file, optimize=True)


if __name__ == "__main__":
    main()
