"""Settings that decide how fast votes are taken. No draw depends on them.

A vote may, where two logits nearly tie: in another memory format, batch size, number of threads or compiled, sums of
float32 are rounded in another order. Such votes are counted as near ties (:func:`glsmooth.voting.engine.cast_votes`).
At one choice of these settings, on one machine, all votes are the same again.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Literal

from glsmooth.errors import UserError

__all__ = ["AUTO", "Auto", "Speed"]

Auto = Literal["auto"]
#: To be measured before the first vote (:func:`glsmooth.voting.tuning.choose_speed`).
AUTO: Auto = "auto"


@dataclass(frozen=True)
class Speed:
    """How votes are taken; what is AUTO is measured on the run's own network and image.

    Attributes:
        batch_size: network evaluations at once.
        channels_last: run convolutions in the channels-last memory format.
        compile: pass the network through ``torch.compile``.
        threads: torch's threads on a CPU; elsewhere it means nothing.
    """

    batch_size: int | Auto = AUTO
    channels_last: bool | Auto = AUTO
    compile: bool | Auto = AUTO
    threads: int | Auto = AUTO

    def __post_init__(self) -> None:
        for name in ("batch_size", "threads"):
            value = getattr(self, name)
            if value != AUTO and (not isinstance(value, Integral) or isinstance(value, bool) or value < 1):
                raise UserError(f"{name}={value!r} must be a whole number, at least 1, or 'auto'")
        for name in ("channels_last", "compile"):
            if getattr(self, name) not in (True, False, AUTO):
                raise UserError(f"{name}={getattr(self, name)!r} must be True, False or 'auto'")

    @property
    def settled(self) -> bool:
        """Is nothing left to be measured?"""
        return AUTO not in asdict(self).values()

    def filled(self, other: Speed) -> Speed:
        """This one, with ``other``'s settings where it is AUTO."""
        return replace(self, **{name: getattr(other, name) for name, value in asdict(self).items() if value == AUTO})

    def words(self, device: str) -> str:
        """A settled one in words, for a type of device."""
        threads = f", {self.threads} thread{'s' if self.threads != 1 else ''}" if device == "cpu" else ""
        memory = "channels last" if self.channels_last else "contiguous"
        return f"batches of {self.batch_size}, {memory}, {'compiled' if self.compile else 'not compiled'}{threads}"
