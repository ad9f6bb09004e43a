"""Nothing that a bound is cached by can change: every way to change it is refused, or has no effect."""

import copy
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from scipy.stats import norm

import glsmooth as gs
from glsmooth.bounds import gl, sampled
from glsmooth.laws.immutable import FrozenMapping
from tests.bounds.user_transforms import BRIGHTEN, Brighten

T = gs.transforms

VALUES = [
    gs.Normal(0.3, 0.7),
    gs.LogNormal(0.2, 0.6),
    gs.Rayleigh(0.4),
    gs.Exponential(3.0),
    gs.HalfNormal(1.3),
    gs.Uniform(-0.5, 2.0),
    gs.UniformCyclic(),
    gs.Box(contrast=(0.5, 2), brightness=(-0.4, 0.4)),
    gs.Ball(5, tx=0, ty=1),
    gs.Points([{"tx": 1}, {"ty": 2, "tx": 3}]),
    FrozenMapping({"a": 1.0}),
]
every = pytest.mark.parametrize("value", VALUES, ids=repr)


class Bright(torch.nn.Module):
    """Votes for class 1 where an image's mean is below a threshold."""

    def __init__(self, threshold):
        super().__init__()
        self.threshold = threshold

    def forward(self, x):
        mean = x.double().mean(dim=(1, 2, 3))
        return torch.stack((mean - self.threshold, self.threshold - mean), dim=1)


def test_a_law_exchanged_after_a_bound_was_cached_certifies_nothing():
    """The attack: the cached h_min of a wide law, the draws of a narrow one.

    With N(0, 1) the region needs Φ(0.4) = 0.655. Under N(0, 0.3) the classifier has probability 0.753 at b = 0, above
    it, but Φ(Φ⁻¹(0.753) - 4/3) = 0.258 at b = 0.4.
    """
    laws = {"brightness": gs.Normal(0.0, 1.0)}
    family = gs.SmoothedFamily(T.Brightness(), laws)
    region = gs.Box(brightness=(-0.4, 0.4))
    h_min = gs.required_probability(family, region)
    image = torch.full((1, 2, 2), 0.5)
    threshold = 0.5 + 0.3 * norm.ppf(0.753)

    laws["brightness"] = gs.Normal(0.0, 0.3)

    assert family.laws["brightness"] == gs.Normal(0.0, 1.0)
    draws = family.sample(20_000, torch.Generator().manual_seed(0))
    assert float(draws.std()) == pytest.approx(1.0, abs=0.02)
    result = gs.SmoothedClassifier(Bright(threshold), family, num_classes=2).certify(image, region, n=20_000)
    assert result.h_min == h_min
    assert not result.certified
    # A family of the new laws has its own bound, and is not certified either.
    new = gs.SmoothedClassifier(Bright(threshold), gs.SmoothedFamily(T.Brightness(), laws), num_classes=2)
    assert not new.certify(image, region, n=20_000).certified


@every
def test_attributes_cannot_be_set_or_deleted(value):
    before = repr(value)
    for name in [*getattr(value, "__dict__", {}), "values", "intervals", "radius", "_scale", "new", "__class__"]:
        with pytest.raises(AttributeError, match="build a new one"):
            setattr(value, name, 1.0)
        with pytest.raises(AttributeError, match="build a new one"):
            delattr(value, name)
    assert repr(value) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda: gs.Normal(0, 1).values.__setitem__("scale", 2.0),
        lambda: gs.Box(tx=(0, 1)).intervals.__setitem__("tx", (0, 9)),
        lambda: gs.Box(tx=(0, 1)).intervals.__delitem__("tx"),
        lambda: gs.Ball(1, tx=0).centre.__setitem__("tx", 9),
        lambda: gs.Points([{"tx": 0}]).points[0].__setitem__("tx", 9),
        lambda: gs.Points([{"tx": 0}]).points.__setitem__(0, {"tx": 9}),
        lambda: BRIGHTEN.laws.__setitem__("b", gs.Normal(0, 9)),
        lambda: BRIGHTEN.laws.__delitem__("b"),
        lambda: next(iter(vars(gs.Normal(0, 1).values).values())).__setitem__("scale", 2.0),
    ],
)
def test_contents_cannot_be_changed(change):
    with pytest.raises((TypeError, AttributeError)):
        change()


@every
def test_constructors_cannot_be_called_again(value):
    again = {
        gs.Box: ((), {"tx": (0, 9)}),
        gs.Ball: ((9,), {"tx": 0}),
        gs.Points: (([{"tx": 9}],), {}),
        FrozenMapping: (({"a": 9.0},), {}),
    }
    arguments, keywords = again.get(type(value), ((1.0, 2.0)[: len(getattr(type(value), "fields", ()))], {}))
    before = copy.deepcopy(value)
    with pytest.raises(AttributeError, match="build a new one"):
        value.__init__(*arguments, **keywords)
    assert value == before


@every
def test_copies_and_pickles_are_equal_and_frozen(value):
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value
        assert hash(other) == hash(value)
        assert repr(other) == repr(value)
        with pytest.raises(AttributeError):
            other.anything = 1


@every
def test_values_differ_by_type_and_number(value):
    assert [other == value for other in VALUES].count(True) == 1
    assert value != object()


def test_what_the_caller_changes_later_does_not_matter():
    interval, radius = [-0.4, 0.4], np.array(2.0)
    array, tensor = np.array([0.5, 2.0]), torch.tensor(0.6, dtype=torch.float64)
    point, points = {"tx": 1}, []
    points.append(point)
    law = gs.LogNormal(0, tensor)
    box, ball, listed = gs.Box(brightness=interval, contrast=array), gs.Ball(radius, tx=tensor), gs.Points(points)
    interval[1], point["tx"] = 9, 9
    array += 9
    tensor += 9
    radius += 9
    points.append({"tx": 5})
    assert law == gs.LogNormal(0, 0.6)
    assert type(law.values["scale"]) is float
    assert box == gs.Box(contrast=(0.5, 2), brightness=(-0.4, 0.4))
    assert ball == gs.Ball(2, tx=0.6)
    assert listed == gs.Points([{"tx": 1}])


def test_regions_are_equal_by_value():
    assert gs.Box(tx=(0, 1), ty=(2, 3)) == gs.Box(ty=(2.0, 3.0), tx=(0.0, 1.0))
    assert gs.Box(tx=(0, 1)) != gs.Box(ty=(0, 1))
    assert gs.Box(tx=(0, 1)) != gs.Box(tx=(0, 1), ty=(0, 0))
    assert gs.Ball(1, tx=0) != gs.Ball(1, tx=0, ty=0)
    assert gs.Ball(1, tx=0) != gs.Ball(2, tx=0)

    class Wider(gs.Box):
        def contains(self, beta):
            return True

    assert Wider(tx=(0, 1)) != gs.Box(tx=(0, 1))


def test_minus_zero_is_zero():
    for minus, plus in (
        (gs.Normal(-0.0, 1), gs.Normal(0.0, 1)),
        (gs.Box(tx=(-0.0, 1)), gs.Box(tx=(0.0, 1))),
        (gs.Ball(-0.0, tx=-0.0), gs.Ball(0.0, tx=0.0)),
        (gs.Points([{"tx": -0.0}]), gs.Points([{"tx": 0.0}])),
    ):
        assert minus == plus
        assert hash(minus) == hash(plus)
        assert repr(minus) == repr(plus)
        assert "-0" not in repr(minus)


def test_a_subclass_hands_its_numbers_to_the_law():
    """Else two laws with different numbers would be equal, and share cached bounds."""

    class Sloppy(gs.Normal):
        def __init__(self, loc, scale, weight):
            super().__init__(loc, scale)
            self.weight = weight

    with pytest.raises(AttributeError, match="cannot set weight"):
        Sloppy(0, 1, 0.5)

    class Weighted(gs.Normal):
        def __init__(self, loc, scale, weight):
            gs.laws.Law.__init__(self, loc=loc, scale=scale, weight=weight)

    assert Weighted(0, 1, 0.5) != Weighted(0, 1, 0.6)


def test_equal_regions_share_a_cached_bound():
    merged = []

    class Watched(Brighten):
        def resolve(self, alpha, beta):
            merged.append(len(alpha))
            return super().resolve(alpha, beta)

    family = gs.SmoothedFamily(Watched(), {"b": gs.Normal(0, 1)})
    one = sampled.certify(family, gs.Points([{"b": 0.111}]), n=1_000)
    assert merged
    merged.clear()
    one.worst["b"] = 7.0  # what is returned is a copy
    two = sampled.certify(family, gs.Points([{"b": 0.111}]), n=1_000)
    assert not merged
    assert two.worst == {"b": 0.111}


@pytest.mark.parametrize("transform", [make() for make in T.BUILTIN.values()], ids=repr)
def test_transformations_are_fixed_once_a_family_holds_them(transform):
    laws = {"tx": gs.Normal(0, 3), "ty": gs.Normal(0, 3), "blur": gs.Rayleigh(2), "brightness": gs.Normal(0, 1)}
    laws |= {"contrast": gs.LogNormal(0, 1), "gamma": gs.LogNormal(0, 1)}
    gs.SmoothedFamily(transform, {name: laws[name] for name in transform.parameters})
    names = ["name", "parameters", "factors", "resolvable", "monotone_parameters", "integer_parameters", "identity"]
    names += ["resolve", "apply", "domain", "_sealed"]
    names += [name for name in ("parts", "order", "padding", "border") if hasattr(transform, name)]
    for other in (transform, copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))):
        for name in names:
            with pytest.raises(AttributeError, match=f"cannot set {name} of .* build a new one"):
                setattr(other, name, None)
            with pytest.raises(AttributeError, match=f"cannot delete {name} of .* build a new one"):
                delattr(other, name)


def test_what_builtin_factors_were_read_from_is_fixed_at_once():
    """Else the action would be c·(x + b) and the bound that of c·x + b."""
    with pytest.raises(AttributeError, match="order"):
        T.ContrastBrightness().order = "brightness_first"
    with pytest.raises(AttributeError, match="padding"):
        T.Translation().padding = "reflect"
    with pytest.raises(AttributeError, match="border"):
        T.GaussianBlur("cyclic").border = "reflect"
    part = Brighten()
    composition = T.Composition(part, T.Translation())
    with pytest.raises(AttributeError, match="parts"):
        composition.parts = (part,)
    with pytest.raises(AttributeError, match="resolvable"):
        part.resolvable = False


def test_a_users_transformation_may_still_cache():
    class Caching(Brighten):
        factors = [T.Shift("b")]  # noqa: RUF012  a list: copied
        strength = 1.0

        def apply(self, images, theta):
            self._calls = getattr(self, "_calls", 0) + 1
            return super().apply(images, theta)

    transform = Caching()
    transform.strength = 2.0  # before a family holds it
    family = gs.SmoothedFamily(transform, {"b": gs.Normal(0, 1)})
    for _ in range(2):
        transform.apply(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1))
    assert transform._calls == 2
    with pytest.raises(AttributeError, match="strength"):
        transform.strength = 3.0
    Caching.factors.append(T.Shift("other"))
    Caching.factors = None
    Caching.resolvable = False
    assert family.transform.factors == (T.Shift("b"),)
    assert family.transform.resolvable


def test_cached_arrays_are_read_only():
    law = gs.Rayleigh(1.0)
    cells = gl.score_cells(law, 1.0, 0.0)
    assert gl.score_cells(law, 1.0, 0.0) is cells
    f = gs.SmoothedFamily(T.Brightness(), {"brightness": gs.Normal(0, 0.3)})
    rates = gl.straight_rates(f, (("brightness", 0.4),), 4)
    for array in (cells.s, cells.p, cells.sd, rates[0].w, gl.LEVELS):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0.0
    with pytest.raises(TypeError):
        rates[0] = None


def test_families_of_one_transformation_are_equal_by_value():
    transform, laws = T.Brightness(), {"brightness": gs.Normal(0, 0.3)}
    family = gs.SmoothedFamily(transform, laws)
    assert family == gs.SmoothedFamily(transform, dict(laws)) == copy.copy(family)
    assert hash(family) == hash(copy.copy(family))
    for other in (
        gs.SmoothedFamily(T.Brightness(), laws),
        gs.SmoothedFamily(transform, {"brightness": gs.Normal(0, 0.4)}),
        gs.SmoothedFamily(transform, laws, (4, 5)),
        gs.SmoothedFamily(transform, laws, None, 0.1),
    ):
        assert other != family
    # Called again, the constructor makes it another key of every cache.
    h_min = gs.required_probability(family, gs.Box(brightness=(-0.4, 0.4)))
    family.__init__(transform, {"brightness": gs.Normal(0, 0.2)})
    assert gs.required_probability(family, gs.Box(brightness=(-0.4, 0.4))) > h_min + 0.05


def _send_back(family):
    return family, float(family.sample(1, torch.Generator().manual_seed(0)))


def test_families_travel_to_spawned_processes():
    family = gs.SmoothedFamily(T.Brightness(), {"brightness": gs.Normal(0, 0.3)}, (4, 5), 0.1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        back, draw = pool.apply(_send_back, (family,))
    assert draw == _send_back(family)[1]
    for other in (back, copy.copy(family), copy.deepcopy(family)):
        assert other.laws == family.laws
        assert hash(other.laws) == hash(family.laws)
        assert (other.image_size, other.pixel_noise) == ((4, 5), 0.1)
        with pytest.raises(AttributeError):
            other.laws = {}
        with pytest.raises(TypeError):
            other.laws["brightness"] = gs.Normal(0, 9)
        with pytest.raises(AttributeError):
            other.transform.factors = ()
