"""What is made when somebody looks at it: most of what a decision considers nobody does."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from operator import eq
from typing import Any, Generic, TypeVar, overload

_T = TypeVar("_T")


class once(Generic[_T]):  # noqa: N801 - used as a decorator
    """A property computed when first read. Unlike `functools.cached_property` before Python 3.12 it takes no lock."""

    def __init__(self, compute: Callable[[Any], _T]) -> None:
        self._compute, self._name, self.__doc__ = compute, compute.__name__, compute.__doc__

    def __get__(self, instance: Any, owner: object = None) -> _T:
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


class Lazy(Sequence[_T]):
    """A sequence by its `at` and `__len__`; equal to any sequence of equal entries."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]

    @abstractmethod
    def at(self, place: int) -> _T:
        """The entry at a place from 0 to the length less one."""

    @overload
    def __getitem__(self, place: int) -> _T: ...

    @overload
    def __getitem__(self, place: slice) -> list[_T]: ...

    def __getitem__(self, place: int | slice) -> _T | list[_T]:
        if isinstance(place, slice):
            return [self.at(each) for each in range(*place.indices(len(self)))]
        return self.at(range(len(self))[place])

    def __iter__(self) -> Iterator[_T]:
        return (self.at(place) for place in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    def __repr__(self) -> str:
        return repr(list(self))
