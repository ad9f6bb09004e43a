"""What differs between the runs of a comparison: the axes, the settings with their seeds, and the best of them.

Only seeds are averaged. Everything else that differs, the images among it, makes another setting.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glsmooth import bounds
from glsmooth.bounds import Outcome
from glsmooth.configuration.fields import cut, is_number, leaves
from glsmooth.configuration.identity import BY_ROOT, USUAL
from glsmooth.family.regions import Ball, Box, Region
from glsmooth.family.sizes import multiplicative
from glsmooth.report import wording
from glsmooth.runs.attacks import Era
from glsmooth.runs.run import Run
from glsmooth.transforms import ResolvableTransform

__all__ = ["SEEDS", "Axis", "Best", "Comparison", "Key", "Result", "Setting", "Tally", "compare"]

Result = tuple[Run, Region, Mapping[str, Outcome]]

#: Keys over which results are averaged.
SEEDS = ("seed", "training.seed")
#: Keys of other groups than the summary's that state the same as these.
_SAME = {"loss.pixel_noise": "pixel_noise", "trainer.precision": "precision"}
#: Where and how fast, or what follows from other keys.
_LEFT_OUT = {"dataset.num_workers", "dataset.download", "monte_carlo.stopped_for"}
#: What decides which images are certified, besides their positions and labels.
_IMAGES = ("name", "root", "image_size", "val_fraction", "test_fraction", "split_seed", "subset", "subset_seed")
#: Keys that follow where others lead: they never name an axis if another key varies with them.
_FOLLOWERS = ("images", "checkpoint", "region")
#: How far ends of a region may be from those of another one, scaled, relative to the largest: hand-written ends like
#: [0.7, 1.43] are rounded. It moves points of a picture, nothing else.
_SCALED = 0.01


@dataclass(frozen=True)
class Key:
    """A key by its dotted name: its value in each result, and that in words."""

    name: str
    values: tuple[Any, ...]
    words: tuple[str, ...]

    @property
    def signatures(self) -> tuple[str, ...]:
        return tuple(map(_signature, self.values))

    @property
    def varies(self) -> bool:
        return len(set(self.signatures)) > 1


@dataclass(frozen=True)
class Axis:
    """Keys that vary together, one to one.

    Attributes:
        keys: the first names the axis.
        label: the axis in a picture.
        levels: level of each result, from 0, in the order of the values.
        words: of each level.
        numbers: of each level, ascending; None where it is no number.
    """

    keys: tuple[Key, ...]
    label: str
    levels: tuple[int, ...]
    words: tuple[str, ...]
    numbers: tuple[float, ...] | None

    @property
    def name(self) -> str:
        return self.keys[0].name


@dataclass(frozen=True)
class Setting:
    """Results that differ in seeds only.

    Attributes:
        levels: on each axis.
        members: positions of the results that count.
        repeats: positions of those with the seeds of a member, which do not count again.
        question: settings of one number answer the same question: the same images, transformation, region and α.
    """

    levels: tuple[int, ...]
    members: tuple[int, ...]
    repeats: tuple[int, ...]
    question: int


@dataclass(frozen=True)
class Tally:
    """How many of ``images`` are right in each of several runs."""

    counts: tuple[int, ...]
    images: int

    @property
    def mean(self) -> float:
        return sum(self.counts) / (len(self.counts) * self.images)

    @property
    def span(self) -> tuple[float, float]:
        return min(self.counts) / self.images, max(self.counts) / self.images

    def words(self) -> str:
        """The mean, and the range of several, rounded down."""
        mean = wording.percent(sum(self.counts), len(self.counts) * self.images)
        if len(self.counts) == 1:
            return mean
        least, most = (wording.percent(end, self.images) for end in (min(self.counts), max(self.counts)))
        return f"{mean} [{least}, {most}]"


@dataclass(frozen=True)
class Best:
    """The best settings of a question: several that tie, or one.

    Attributes:
        winners: their positions.
        rivals: how many settings answer the question.
        next: the one that follows, where there is one.
        difference, error: its distance to the best, and the standard error of that distance over images.
    """

    question: int
    winners: tuple[int, ...]
    rivals: int
    next: int | None = None
    difference: float = 0.0
    error: float = 0.0

    @property
    def noise(self) -> bool:
        """Could the mark as well be on the next?"""
        return self.next is not None and self.difference <= self.error * (1 + 1e-9)


@dataclass(frozen=True)
class Comparison:
    """Results with what differs between them.

    Attributes:
        axes: what varies besides seeds, the numeric ones first.
        settings: in the order of the axes.
        seeds: the seeds that vary.
        same: the keys that do not vary.
        method: the method that the picture and the best setting are of; None without a sound one.
        eras: empirical robust accuracy of each result, where it was attacked.
    """

    results: Sequence[Result]
    axes: tuple[Axis, ...]
    settings: tuple[Setting, ...]
    seeds: tuple[Key, ...]
    same: tuple[Key, ...]
    method: str | None
    eras: Sequence[Era | None] = ()

    @property
    def methods(self) -> list[str]:
        """Methods that are sound and say something in some result, in the order of ``bounds.METHODS``."""
        return [name for name in bounds.METHODS if any(sound(d, name) for _, _, d in self.results)]

    @property
    def called(self) -> str:
        """What the images are called."""
        names = {run.called for run, _, _ in self.results}
        return names.pop() if len(names) == 1 else "images"

    def cra(self, setting: Setting, method: str) -> Tally | None:
        """Certified and correct images; None unless the method certifies in every one of its runs."""
        counts = []
        for i in setting.members:
            run, _, outcomes = self.results[i]
            outcome = sound(outcomes, method)
            if outcome is None:
                return None
            counts.append(int(np.count_nonzero(run.robust(outcome))))
        return Tally(tuple(counts), self.results[setting.members[0]][0].images)

    def era(self, setting: Setting) -> Tally | None:
        """Images that withstood the attack; None unless as many were attacked in every one of its runs."""
        found = [self.eras[i] for i in setting.members]
        known = [era for era in found if era is not None]
        if len(known) < len(found) or len({era.images for era in known}) != 1:
            return None
        return Tally(tuple(era.robust for era in known), known[0].images)

    def smoothed(self, setting: Setting) -> Tally:
        return self._tally(setting, "prediction")

    def base(self, setting: Setting) -> Tally:
        return self._tally(setting, "base_prediction")

    def _tally(self, setting: Setting, column: str) -> Tally:
        runs = [self.results[i][0] for i in setting.members]
        counts = [int(np.count_nonzero(run.columns[column] == run.columns["label"])) for run in runs]
        return Tally(tuple(counts), runs[0].images)

    def h_min(self, setting: Setting, method: str) -> float | None:
        """The largest over its runs."""
        found = [sound(self.results[i][2], method) for i in setting.members]
        return max((d.h_min for d in found if d is not None and d.h_min is not None), default=None)

    def best(self) -> list[Best]:
        """The best settings by the mean CRA of ``method``, of each question that several settings answer."""
        if self.method is None:
            return []
        found = []
        for question in dict.fromkeys(setting.question for setting in self.settings):
            tallies = {
                i: counted
                for i, setting in enumerate(self.settings)
                if setting.question == question and (counted := self.cra(setting, self.method)) is not None
            }
            if len(tallies) > 1:
                found.append(self._best(question, tallies))
        return found

    def _best(self, question: int, tallies: Mapping[int, Tally]) -> Best:
        # Compared by cross-multiplication: means of different numbers of seeds tie exactly or not at all.
        ordered = sorted(tallies, key=lambda i: -tallies[i].mean)

        def equal(a: Tally, b: Tally) -> bool:
            return sum(a.counts) * len(b.counts) == sum(b.counts) * len(a.counts)

        first = ordered[0]
        winners = tuple(sorted(i for i in ordered if equal(tallies[i], tallies[first])))
        others = [i for i in ordered if i not in winners]
        if not others:
            return Best(question, winners, len(tallies))
        apart = self._shares(first) - self._shares(others[0])
        return Best(
            question,
            winners,
            len(tallies),
            others[0],
            float(apart.mean()),
            # Paired, and under the hypothesis that there is no difference: of single runs the square root of the number
            # of images on which they disagree (McNemar).
            math.sqrt(float(np.square(apart).sum())) / len(apart),
        )

    def _shares(self, position: int) -> NDArray[np.float64]:
        """Share of a setting's runs in which each image is certified and correct, in the order of the images."""
        assert self.method is not None
        shares = []
        for i in self.settings[position].members:
            run, _, outcomes = self.results[i]
            shares.append(run.robust(outcomes[self.method])[np.argsort(run.columns["index"])])
        return np.asarray(np.mean(shares, axis=0))


def sound(outcomes: Mapping[str, Outcome], method: str) -> Outcome | None:
    """What a method certifies by, or None: an unsound or approximate one has no CRA."""
    outcome = outcomes.get(method)
    return outcome if outcome is not None and outcome.sound and outcome.h_min is not None else None


def compare(results: Sequence[Result], eras: Sequence[Era | None] | None = None) -> Comparison:
    """What differs between results, by every key that decides them, and what follows from that."""
    keys = _keys(results)
    seeds = [key for key in keys if key.name in SEEDS]
    varying = [key for key in keys if key.varies and key.name not in SEEDS]
    axes = sorted(_axes(varying, results), key=lambda axis: axis.numbers is None)
    members: dict[tuple[int, ...], list[int]] = {}
    for i in range(len(results)):
        members.setdefault(tuple(axis.levels[i] for axis in axes), []).append(i)
    questions: dict[tuple[Any, ...], int] = {}
    settings = []
    for levels, positions in sorted(members.items()):
        seen: dict[tuple[str, ...], int] = {}
        for i in positions:
            seen.setdefault(tuple(_signature(key.values[i]) for key in seeds), i)
        first = positions[0]
        question = questions.setdefault(_question(results[first]), len(questions))
        counted = tuple(seen.values())
        settings.append(Setting(levels, counted, tuple(i for i in positions if i not in counted), question))
    return Comparison(
        results,
        tuple(axes),
        tuple(settings),
        tuple(key for key in seeds if key.varies),
        tuple(key for key in keys if not key.varies),
        _method(results),
        [None] * len(results) if eras is None else eras,
    )


def _method(results: Sequence[Result]) -> str | None:
    """Neyman-Pearson where any result has it, else the sound method of most results."""
    counts = {name: sum(sound(d, name) is not None for _, _, d in results) for name in bounds.METHODS}
    if counts["neyman_pearson"]:
        return "neyman_pearson"
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] else None


def _keys(results: Sequence[Result]) -> list[Key]:
    """Every key of the results, by group; what no result states is left out."""
    images, regions = _images(results), [wording.region(region) for _, region, _ in results]
    stated = [_certified(run) for run, _, _ in results]
    trained = [run.summary.training or {} for run, _, _ in results]
    repeats = {
        name
        for name in {name for training in trained for name in training}
        if name in _SAME or name.partition(".")[0] in _GROUPS
        if all(
            _signature(training.get(name)) == _signature(own.get(_SAME.get(name, name)))
            for training, own in zip(trained, stated, strict=True)
            if training
        )
    }
    found: list[dict[str, Any]] = []
    for (run, region, _), own, training, same in zip(results, stated, trained, images, strict=True):
        values = {name: value for name, value in own.items() if not name.startswith("region.")}
        values |= {f"training.{name}": value for name, value in training.items() if name not in repeats}
        # Without a word about its training, a checkpoint is what it is.
        values["checkpoint"] = None if training else (run.summary.checkpoint or {}).get("sha256")
        found.append(values | {"region": region.to_config(), "images": same})
    special = {"region": regions, "images": images}
    keys = []
    for name in dict.fromkeys(name for values in found for name in values):
        column = tuple(values.get(name) for values in found)
        words = tuple(special[name]) if name in special else tuple(_shown(name, value) for value in column)
        if any(value is not None for value in column):
            keys.append(Key(name, column, words))
    return keys


_GROUPS = ("transform", "smoothing", "dataset", "model", "region")


def _certified(run: Run) -> dict[str, Any]:
    """What certify was told, dotted, ``region.*`` of the certificate in its files."""
    summary = run.summary
    # A data set that has a name counts by that name, wherever it lies.
    ignored = _LEFT_OUT | ({"dataset.root"} if summary.dataset.get("name") not in BY_ROOT else set())
    return {
        name: value
        for name, value in leaves(summary.told)
        if name not in ignored and name.rpartition(".")[0] not in ignored and value != {}
        if name not in USUAL or value not in (None, USUAL[name])
    }


def _images(results: Sequence[Result]) -> list[str]:
    """The images of each result in words that differ where they do."""
    identities = [_image_identity(run) for run, _, _ in results]
    known: dict[str, int] = {}
    for identity, (run, _, _) in zip(identities, results, strict=True):
        known.setdefault(identity, run.images)
    words, numbers = {}, list(known.values())
    for identity, count in known.items():
        alike = [other for other, number in known.items() if number == count]
        words[identity] = str(count) if numbers.count(count) == 1 else f"{count} (set {alike.index(identity) + 1})"
    return [words[identity] for identity in identities]


def _image_identity(run: Run) -> str:
    """The same for runs of the same images only: paired comparisons and means are of such."""
    order = np.argsort(run.columns["index"])
    digest = hashlib.sha256()
    for column in ("index", "label"):
        digest.update(np.ascontiguousarray(run.columns[column][order], dtype=np.int64).tobytes())
    dataset = run.summary.dataset
    chosen = {name: dataset.get(name) for name in _IMAGES} | {"split": run.split}  # null is a split, too
    if dataset.get("name") not in BY_ROOT:
        chosen.pop("root")
    return _signature(chosen) + digest.hexdigest()


def _question(result: Result) -> tuple[Any, ...]:
    run, region, _ = result
    return (
        _image_identity(run),
        _signature(run.summary.transform),
        _signature(region.to_config()),
        _signature(run.alpha),
    )


def _signature(value: Any) -> str:
    """Equal for equal settings: 1 and 1.0 are one, nan is nan."""
    return json.dumps(_canonical(value), sort_keys=True)


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _shown(name: str, value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    if is_number(value):
        return wording.number(value)
    if isinstance(value, str):
        if name == "checkpoint":
            return cut(value[:12])
        return cut(value.rpartition(".")[2] if name == "transform._target_" else value)
    return cut(json.dumps(_canonical(value), ensure_ascii=False))


def _axes(varying: Sequence[Key], results: Sequence[Result]) -> list[Axis]:
    """Keys that split the results alike are one axis."""
    groups: dict[tuple[int, ...], list[Key]] = {}
    for key in varying:
        first: dict[str, int] = {}
        parts = tuple(first.setdefault(signature, len(first)) for signature in key.signatures)
        groups.setdefault(parts, []).append(key)
    return [_axis(parts, keys, results) for parts, keys in groups.items()]


def _axis(parts: tuple[int, ...], keys: list[Key], results: Sequence[Result]) -> Axis:
    sizes = None
    leading = [key for key in keys if key.name not in _FOLLOWERS]
    words_first = [key for key in leading if not all(map(is_number, key.values))]
    if not leading and any(key.name == "region" for key in keys):
        leading = [key for key in keys if key.name == "region"]
        sizes = _region_sizes(results)
    # A setting that is no number is the larger change: what varies with it follows.
    head = (words_first or leading or keys)[0]
    keys = [head, *(key for key in keys if key is not head)]
    label, numbers = head.name, None
    if sizes is not None:
        numbers, label = sizes
    elif leading and not words_first and head.name != "region":
        numbers = [float(value) for value in head.values]
    positions = [parts.index(part) for part in range(max(parts) + 1)]  # the first result of each level
    if numbers is not None:
        positions.sort(key=lambda i: numbers[i])
    rank = {parts[i]: level for level, i in enumerate(positions)}
    return Axis(
        tuple(keys),
        label,
        tuple(rank[part] for part in parts),
        tuple(head.words[i] for i in positions),
        None if numbers is None else tuple(numbers[i] for i in positions),
    )


def _region_sizes(results: Sequence[Result]) -> tuple[list[float], str] | None:
    """How large each region is, and what that number means, where they are scaled versions of each other."""
    transform = results[0][0].family.transform
    regions = [region for _, region, _ in results]
    if any(run.family.transform.parameters != transform.parameters for run, _, _ in results):
        return None
    balls = [region for region in regions if isinstance(region, Ball)]
    if len(balls) == len(regions) and len({ball.centre for ball in balls}) == 1:
        names = balls[0].parameters
        unit = "pixels, l2" if set(names) <= wording.SHIFTS else "l2"
        label = f"radius of the region: {wording.join(map(wording.parameter, names))} ({unit})"
        return [ball.radius for ball in balls], label
    boxes = [region for region in regions if isinstance(region, Box)]
    if len(boxes) < len(regions):
        return None
    names = boxes[0].parameters
    if any(set(box.parameters) != set(names) for box in boxes):
        return None
    changed = [name for name in names if len({box.intervals[name] for box in boxes}) > 1]
    ends = np.array([[_ends(transform, name, box.intervals[name]) for name in changed] for box in boxes])
    ends = ends.reshape(len(boxes), -1)
    if not np.isfinite(ends).all():
        return None
    largest = ends[np.abs(ends).max(axis=1).argmax()]
    if not largest.any():
        return None
    sizes = ends @ largest / (largest @ largest)
    if (sizes < 0).any() or np.abs(ends - sizes[:, None] * largest).max() > _SCALED * np.abs(largest).max():
        return None
    if len(set(sizes.tolist())) < len({box.intervals for box in boxes}):
        return None
    if len(changed) > 1:
        return sizes.tolist(), "size of the region (1: the largest)"
    (name,) = changed
    return _extents(transform, name, [box.intervals[name] for box in boxes])


def _ends(transform: ResolvableTransform, name: str, interval: tuple[float, float]) -> list[float]:
    """The ends seen from the identity, in the logarithm where the parameter composes by products."""
    identity = float(transform.identity[transform.parameters.index(name)])
    if multiplicative(transform, name):
        return [math.log(end / identity) if end > 0 else -math.inf for end in interval]
    return [end - identity for end in interval]


def _extents(
    transform: ResolvableTransform, name: str, intervals: Sequence[tuple[float, float]]
) -> tuple[list[float], str]:
    """Regions of one parameter by its free end, or by their half-width, which of a factor is one, too."""
    word, unit = wording.PARAMETERS.get(name, (name, ""))
    identity = float(transform.identity[transform.parameters.index(name)])
    for end, meaning in ((1, "up to"), (0, "down to")):
        if all(interval[1 - end] == identity for interval in intervals):
            values = [interval[end] for interval in intervals]
            return values, f"region: {word} {meaning}" + (f" ({unit})" if unit else "")
    if multiplicative(transform, name):
        return [math.sqrt(high / low) for low, high in intervals], f"half-width of the region: {word} (factor)"
    return [(high - low) / 2 for low, high in intervals], f"half-width of the region: {word}" + (
        f" ({unit})" if unit and name != "brightness" else ""
    )
