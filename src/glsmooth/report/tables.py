"""The tables of a report, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from glsmooth import bounds
from glsmooth.family.regions import Box
from glsmooth.report import wording
from glsmooth.report.results import CertifyRun, Decision, primary


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], numeric_from: int = 1) -> str:
    """A Markdown table; columns from ``numeric_from`` on are right-aligned."""
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("|" + "|".join("---" if i < numeric_from else "---:" for i in range(len(header))) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def count(flags: np.ndarray) -> int:
    return int(np.count_nonzero(flags))


def robust_count(run: CertifyRun, decision: Decision) -> int:
    """Number of images that are certified in their true class."""
    return count(decision.certified & run.correct)


def accuracy_rows(run: CertifyRun) -> list[tuple[str, str, str]]:
    """(quantity, images, share) of what the classifiers do without any transformation of the test image."""
    total = run.images
    counts = [
        ("base classifier correct", count(run.columns["base_prediction"] == run.columns["label"])),
        ("smoothed classifier: selected class correct", count(run.correct)),
        ("smoothed classifier abstains (p_A ≤ 1/2)", count((run.p_lower <= 0.5) & ~run.given_up)),
    ]
    if run.stops_early:
        counts.append(("given up early (region out of reach, p_A > 1/2 left open)", count(run.given_up)))
    return [(what, str(images), wording.percent(images, total)) for what, images in counts]


METHOD_HEADER = ("method", "h_min", "certified", "and correct", "CRA")


def method_rows(run: CertifyRun, decisions: Mapping[str, Decision]) -> list[tuple[str, str, str, str, str]]:
    """(method, h_min, certified, certified and correct, CRA) per method; unsound methods have no counts."""
    rows = []
    for decision in decisions.values():
        if decision.h_min is None:
            rows.append((decision.title, "n/a", "n/a", "n/a", "n/a"))
        elif not decision.sound:
            standing = decision.standing.partition(",")[0]
            rows.append((marked_title(decision), wording.ceil(decision.h_min, 5), standing, standing, standing))
        else:
            robust = robust_count(run, decision)
            share = wording.percent(robust, run.images)
            rows.append(
                (
                    decision.title,
                    wording.ceil(decision.h_min, 5),
                    f"{count(decision.certified)}",
                    f"{robust}",
                    share,
                )
            )
    return rows


def marked_title(decision: Decision) -> str:
    """The method's title, with the word that says why it does not count."""
    title, standing = decision.title, decision.standing
    return title if decision.sound or standing in title.lower() else f"{title} ({standing})"


def method_notes(run: CertifyRun, decisions: Mapping[str, Decision]) -> list[str]:
    """Why a method has no CRA, a sentence each."""
    notes = []
    for decision in decisions.values():
        if decision.h_min is None:
            notes.append(f"{decision.title} does not apply: {decision.reason}")
        elif not decision.sound:
            claimed = wording.percent(count(decision.claimed & run.correct), run.images)
            why = f" ({decision.reason})" if decision.reason else ""
            notes.append(f"{marked_title(decision)} proves nothing{why}; never counted. It would claim {claimed}.")
    return notes


def headline(run: CertifyRun, region: Box, decisions: Mapping[str, Decision]) -> str:
    """The result in one plain sentence, with its error probability."""
    best = primary(decisions)
    where = wording.region(region.intervals)
    if best is None and (approximate := next((d for d in decisions.values() if d.residual is not None), None)):
        return (
            f"Approximate: the transformation is not resolvable as it says (residual {approximate.residual:.2g}), so "
            f"none of the {run.images} test images is certified under every {where}."
        )
    if best is None:
        return f"No sound method applies: none of the {run.images} test images is certified under every {where}."
    robust = robust_count(run, best)
    if robust == 0:
        nothing = f"None of the {run.images} test images is certified in its true class under every {where}."
        return f"{nothing} {_why_none(run, best)}".rstrip()
    return (
        f"Of {run.images} test images, {robust} ({wording.percent(robust, run.images)}) provably keep their "
        f"correct class under every {where}, {wording.error(run.alpha, best.failure_probability)}."
    )


def _why_none(run: CertifyRun, decision: Decision) -> str:
    assert decision.h_min is not None
    if run.exhaustive or run.randomised:
        needed = None if decision.h_min == 1 else 0  # no number of votes rules a certificate out
    else:
        needed = bounds.samples_needed(decision.h_min, run.alpha)
    if needed is None:
        return f"{decision.title} requires h_min = {wording.ceil(decision.h_min, 5)}, which no vote can reach."
    votes = int(run.columns["n"].max())
    if needed > votes:
        return (
            f"h_min = {wording.ceil(decision.h_min, 5)} needs at least {needed} unanimous votes an image, "
            f"and at most {votes} were drawn."
        )
    return ""


def assumptions(run: CertifyRun, decisions: Mapping[str, Decision]) -> list[str]:
    """What must hold for the certificate to be true, a sentence each."""
    best = primary(decisions)
    estimated = best.failure_probability if best is not None else 0.0
    if run.exhaustive:
        votes = "No vote was sampled: p_A is the probability of the shifts that voted for the class, those that were "
        votes += "not visited count against it, and there is no probability of error in the votes"
        if estimated > 0:
            votes += f"; the bound fails with probability at most {wording.probability(estimated)}"
        votes += "."
    else:
        votes = f"The statement about one image fails with probability at most {wording.probability(run.alpha)} (votes)"
        if estimated > 0:
            votes += f" plus {wording.probability(estimated)} (the bound was estimated from samples)"
        votes += "; over many images it may fail for a few."
        if run.randomised:
            votes += " It depends on a coin of each image, which records.csv keeps; drawing it again would void it."
    sentences = [
        votes,
        "Transformed images are not clipped to [0, 1] and not rounded to 8 bits before they reach the classifier.",
        "Arithmetic is treated as exact: rounding of the transformation and of the network is not covered.",
        "The statement is about the smoothed classifier, the majority vote over the smoothing laws, not "
        "about the base classifier alone.",
    ]
    if run.summary.get("stochastic"):
        sentences.append(
            "A random network was accepted: each vote draws its randomness afresh, and the statement is about the "
            "classifier smoothed over that randomness, too."
        )
    parameters = run.family.parameters
    if "tx" in parameters or "ty" in parameters:
        torus = run.family.torus
        where = (
            f"h_min is that of the torus of {run.family.image_size[0]} × {run.family.image_size[1]} pixels."
            if torus and run.family.image_size is not None
            else "h_min is that of shifts on the plane, which stays valid for cyclic ones."
        )
        sentences.append(
            f"Shifts are cyclic and by whole pixels (what leaves at one border enters at the other); {where}"
        )
    if "blur" in parameters:
        sentences.append("Blur is exact multiplication in the frequency domain, not a truncated kernel.")
    return sentences


def settings(run: CertifyRun, region: Box, decisions: Mapping[str, Decision]) -> list[tuple[str, str]]:
    """The settings in words: (what, value)."""
    transform = run.family.transform
    order = run.summary["transform"].get("order")
    rows = [
        ("transformation", transform.name + (f" ({str(order).replace('_', ' ')})" if order else "")),
        (
            "smoothing laws",
            "; ".join(
                f"{wording.parameter(name)} ~ {wording.law(law)}"
                for name, law in run.summary["smoothing"].items()
                if law is not None
            ),
        ),
        ("certified region", wording.region(region.intervals)),
    ]
    best = primary(decisions)
    if best is not None and best.worst:
        rows.append(("hardest parameter in it", wording.point(best.worst)))
    left_out = [name for name in transform.parameters if name not in region.intervals]
    if left_out:
        rows.append(("left at the identity", wording.join(wording.parameter(name) for name in left_out)))
    if run.family.pixel_noise:
        rows.append(("pixel noise", f"Normal, standard deviation {wording.number(run.family.pixel_noise)}"))
    rows.append(
        (
            "Monte Carlo",
            f"{run.procedure}: {_draws(run)}"
            + ("" if run.exhaustive else f"; α = {wording.probability(run.alpha)} an image"),
        )
    )
    rows.append(("votes", _votes(run)))
    dataset = run.summary["dataset"]
    subset = dataset.get("subset")
    rows.append(
        (
            "images",
            f"{run.images} of the test split of {run.name}"
            + (f" (random subset, seed {dataset.get('subset_seed')})" if subset is not None else ""),
        )
    )
    model = run.summary.get("model")
    rows.append(("model", str(model.get("name")) if isinstance(model, Mapping) else str(model)))
    return rows


def _draws(run: CertifyRun) -> str:
    """How the votes of an image are drawn and counted."""
    monte_carlo = run.summary["monte_carlo"]
    n0, n = monte_carlo.get("n0"), monte_carlo.get("n")
    if run.exhaustive:
        return (
            f"each of {n} shifts votes at most once, the most probable first, until the image is decided; p_A is the "
            "probability of those that voted for the class"
        )
    if run.procedure == "sequential":
        return (
            f"draws, {n0} at most, until one class leads clearly; then fresh ones, {n} at most, until an "
            "anytime-valid test decides the image or it is given up"
        )
    words = f"{n0} draws select the class, {n} fresh ones count it; "
    words += "randomised Clopper–Pearson lower bound" if run.randomised else "Clopper–Pearson lower bound"
    if monte_carlo.get("interval") == "two-sided":
        words += " of the two-sided interval (α/2)"
    if monte_carlo.get("vote") == "majority":
        words += "; a vote is a softmax output above 1/2"
    return words


def _votes(run: CertifyRun) -> str:
    """How many votes there were, and how many of them are doubtful."""
    words = f"{int((run.columns['n0'] + run.columns['n']).sum()):,} in all"
    for column, meaning in (
        ("abstain_votes", "for no class (exact ties, non-finite logits)"),
        ("nonfinite_votes", "with a non-finite logit"),
        ("near_ties", "nearer to a tie than rounding"),
    ):
        if column in run.columns and run.columns[column].any():
            words += f"; {int(run.columns[column].sum()):,} {meaning}"
    return words


def provenance(run: CertifyRun) -> list[tuple[str, str]]:
    """Seed, checkpoint, hardware, versions: what is needed to run it again."""
    summary = run.summary
    rows = [("run directory", run.path.resolve().name), ("seed", str(summary.get("seed", "not recorded")))]
    checkpoint = summary.get("checkpoint")
    if isinstance(checkpoint, Mapping):
        rows.append(("checkpoint", f"{checkpoint.get('path')} (sha256 {str(checkpoint.get('sha256'))[:16]}…)"))
    seconds = summary.get("seconds_per_image")
    if seconds is not None:
        rows.append(("seconds an image", f"{float(seconds):.3g}"))
    if summary.get("hardware"):
        rows.append(("hardware", _flat(summary["hardware"])))
    if summary.get("versions"):
        rows.append(("versions", _flat(summary["versions"])))
    return rows


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def run_table(run: CertifyRun, region: Box, decisions: Mapping[str, Decision], note: str = "") -> str:
    """table.md of one run."""
    parts = [
        f"# Certified robust accuracy: {run.family.transform.name} on {run.name}\n",
        headline(run, region, decisions) + "\n",
    ]
    if note:
        parts.append(note + "\n")
    parts.append(markdown(METHOD_HEADER, method_rows(run, decisions)))
    if notes := method_notes(run, decisions):
        parts.append("\n".join(f"* {line}" for line in notes) + "\n")
    parts.append(
        "h_min: the probability that the method requires for this region. Certified: p_A > h_min. CRA, "
        "certified robust accuracy: the share of the images that are certified in their true class.\n"
    )
    parts.append(markdown(("without transformation", "images", "share"), accuracy_rows(run)))
    parts.append(markdown(("setting", "value"), settings(run, region, decisions), numeric_from=2))
    parts.append("What the certificate assumes:\n")
    parts.append("\n".join(f"* {sentence}" for sentence in assumptions(run, decisions)) + "\n")
    parts.append(markdown(("run", "value"), provenance(run), numeric_from=2))
    return "\n".join(parts)


def comparison_rows(
    results: Sequence[tuple[CertifyRun, Box, Mapping[str, Decision]]],
) -> tuple[list[str], list[list[str]]]:
    """Header and one row a run, with one CRA column for every method that occurs in any of them."""
    methods = [name for name in bounds.METHODS if any(name in decisions for _, _, decisions in results)]
    header = ["run", "dataset", "transformation", "region", "images", "base", "smoothed"]
    for name in methods:
        short = wording.METHODS.get(name, name)
        header.append(f"CRA {short} (h_min)" if bounds.METHODS[name].sound else f"{short}: unsound, not counted")
    rows = []
    for run, region, decisions in results:
        accuracies = [share for _, _, share in accuracy_rows(run)[:2]]
        row = [run.path.resolve().name, run.name, run.family.transform.name, wording.region(region.intervals)]
        row += [str(run.images), *accuracies]
        row += [_comparison_cell(run, decisions.get(name)) for name in methods]
        rows.append(row)
    return header, rows


def _comparison_cell(run: CertifyRun, decision: Decision | None) -> str:
    if decision is None:
        return "–"
    if decision.h_min is None:
        return "n/a"
    if not decision.sound:
        return decision.standing
    return f"{wording.percent(robust_count(run, decision), run.images)} ({wording.ceil(decision.h_min, 5)})"
