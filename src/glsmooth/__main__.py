"""``glsmooth COMMAND …``, the same as ``python -m glsmooth.COMMAND …``."""

from __future__ import annotations

import runpy
import sys

from glsmooth.errors import did_you_mean

COMMANDS = {
    "train": "train a base classifier under smoothing laws",
    "advise": "which smoothing law for a region? What a trained classifier may expect under each",
    "certify": "certify test images of a trained classifier",
    "attack": "what a trained classifier loses over a region, and whether its certificates hold",
    "predict": "the class of image files, by a trained classifier that may abstain",
    "export": "a trained classifier as a folder that can be shared, with a card",
    "bounds": "the class probability that a region requires; no model, no data",
    "report": "tables and pictures from finished runs",
    "verify": "check finished runs by a second program that shares no code with the bounds",
    "sweep": "train, certify and report every combination of the values that are typed",
}


def main() -> None:
    """Run the command that ``sys.argv`` names."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("--help", [])
    if name in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        commands = "\n".join(f"  {command:<{width}}  {about}" for command, about in COMMANDS.items())
        print(
            "Certified robustness of image classifiers under semantic transformations.\n\n"
            f"Usage: glsmooth COMMAND [group=choice] [key=value]\n\nCommands\n{commands}\n\n"
            "glsmooth COMMAND --help explains what each takes."
        )
        return
    if name not in COMMANDS:
        print(f"glsmooth {name}: no such command{did_you_mean(name, COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = arguments
    if name == "bounds":  # not by its face: that package imports torch
        from glsmooth.commands.mains import bounds

        bounds()
    else:
        # As python -m would, sys.argv and __main__ included: Lightning starts further processes by these two.
        runpy.run_module(f"glsmooth.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
