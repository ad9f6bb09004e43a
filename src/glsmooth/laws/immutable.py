"""Values that nothing can change: what bounds are cached by must stay what it was when they were computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, NoReturn, TypeVar

__all__ = ["FrozenMapping", "Immutable"]

V = TypeVar("V")


class Immutable:
    """No attribute can be set or deleted; equal and hashed by type and attributes.

    Constructors hand their attributes to :meth:`_fill`, once. Copies and pickles restore attributes directly.
    """

    def _fill(self, **attributes: Any) -> None:
        for name in self.__dict__:  # the constructor was called again
            self.__setattr__(name, None)
        self.__dict__.update(attributes)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot set {name}: a {type(self).__name__} never changes; build a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete {name}: a {type(self).__name__} never changes; build a new one")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((type(self), frozenset(vars(self).items())))


class FrozenMapping(Mapping[str, V], Generic[V]):
    """A copy of a mapping that cannot be changed; unlike MappingProxyType it travels to other processes."""

    __slots__ = ("_view",)

    _view: Mapping[str, V]

    def __init__(self, items: Mapping[str, V]) -> None:
        if hasattr(self, "_view"):
            self.__setattr__("_view", items)
        object.__setattr__(self, "_view", MappingProxyType(dict(items)))

    def __getitem__(self, name: str) -> V:
        return self._view[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._view)

    def __len__(self) -> int:
        return len(self._view)

    def __hash__(self) -> int:
        return hash(frozenset(self._view.items()))

    def __setitem__(self, name: str, value: V) -> NoReturn:
        raise TypeError(f"cannot set {name!r}: it was fixed when its owner was built; build a new one")

    def __delitem__(self, name: str) -> NoReturn:
        raise TypeError(f"cannot delete {name!r}: it was fixed when its owner was built; build a new one")

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot set {name}: the mapping never changes; build a new one")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete {name}: the mapping never changes; build a new one")

    def __reduce__(self) -> tuple[type[FrozenMapping[V]], tuple[dict[str, V]]]:
        return FrozenMapping, (dict(self._view),)

    def __repr__(self) -> str:
        return repr(dict(self._view))
