"""What a search looks at: how clearly a classifier, base or smoothed, still answers at a parameter.

The smoothed classifier sees the attacker's image φ(x, β) and transforms that by its own draws, as it is deployed: no
resolving function is used, so an action that does not merge as it says shows here, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glsmooth.errors import out_of_memory
from glsmooth.family.smoothed import SmoothedFamily
from glsmooth.voting.classifier import BaseClassifier
from glsmooth.voting.draws import Stream, pixel_normals, uniforms

__all__ = ["Change", "Objective"]

#: What else happens to attacked images (N, C, H, W) before the classifier gets them; it takes the transformation's
#: place: (images, β (N, d)) -> attacked images.
Change = Callable[[Tensor, Tensor], Tensor]

#: Draws of one stage of a search lie so far from those of the next.
_A_STAGE = 1 << 20
#: A pass that is differentiated takes about three times as long.
_BACKWARD = 3
_LARGEST = 1e4


class Objective:
    """Margins of some images' classes at parameters, many images and parameters in a batch.

    A margin is the logit of the image's target minus the largest other one: negative where another class wins. Scores
    are the mean over draws of tanh(margin / τ), τ the image's median size of a margin: between the share of votes, flat
    where all agree, and the mean margin, which a few large ones rule. At -1 all draws are lost.

    The draws of an image and a stage are the same for all parameters (common random numbers), and are used for no vote
    that counts: their stream is :attr:`glsmooth.voting.draws.Stream.SEARCH`.

    Args:
        classifier: the base classifier, ready.
        family: transformation, laws, pixel noise.
        images: (K, C, H, W) on the classifier's device.
        indices: (K,) their numbers, which fix the draws.
        targets: (K,) the class whose votes an attack takes away.
        seed: of the draws.
        batch_size: evaluations at once.
        change: another attack than the family's transformation.
    """

    def __init__(
        self,
        classifier: BaseClassifier,
        family: SmoothedFamily,
        images: Tensor,
        indices: Sequence[int],
        targets: Sequence[int],
        seed: int,
        batch_size: int,
        change: Change | None = None,
    ) -> None:
        self.classifier, self.family, self.images = classifier, family, images
        self.indices, self.seed, self.batch_size = list(indices), seed, batch_size
        self.targets = torch.tensor(list(targets), dtype=torch.int64, device=images.device)
        self.change: Change = change or family.transform.apply
        self.passes = [0] * len(self.indices)
        self._scale = torch.ones(len(self.indices), device=images.device)
        self._cache: dict[tuple[int, int, int], tuple[Tensor, Tensor]] = {}

    def _draws(self, which: int, stage: int, number: int) -> tuple[Tensor, Tensor]:
        """α (number, d) and keys of the pixel noise, of an image at a stage."""
        key = (which, stage, number)
        if key not in self._cache:
            u, keys = uniforms(
                self.seed, self.indices[which], Stream.SEARCH, stage * _A_STAGE, number, len(self.family.parameters)
            )
            self._cache[key] = self.family.draw(torch.from_numpy(u)), torch.from_numpy(keys)
        return self._cache[key]

    def forget(self) -> None:
        """Draws of stages that are over."""
        self._cache.clear()

    def _margins(self, which: Tensor, beta: Tensor, stage: int, number: int) -> Tensor:
        """Margins (R, number) of rows (image, β); ``number`` 0: of the base classifier, (R, 1)."""
        device = self.images.device
        attacked = self.change(self.images.index_select(0, which.to(device)), beta.to(device))
        repeated, targets = attacked, self.targets.index_select(0, which.to(device))
        if number:
            draws = [self._draws(row, stage, number) for row in which.tolist()]
            alpha = torch.cat([one for one, _ in draws]).to(device)
            repeated = self.family.transform.apply(attacked.repeat_interleave(number, dim=0), alpha)
            targets = targets.repeat_interleave(number)
            if self.family.pixel_noise > 0:
                keys = torch.cat([one for _, one in draws]).to(device)
                noise = pixel_normals(keys, (repeated.shape[1], repeated.shape[2], repeated.shape[3]))
                repeated = repeated + self.family.pixel_noise * noise
        # One row may be more than a batch.
        logits = torch.cat([self.classifier(part).float() for part in repeated.split(self.batch_size)])
        own = logits.gather(1, targets[:, None])[:, 0]
        others = logits.scatter(1, targets[:, None], -torch.inf).amax(dim=1)
        # Logits that are not finite vote for no class.
        margin = torch.where(logits.isfinite().all(dim=1), own - others, -_LARGEST).clamp(-_LARGEST, _LARGEST)
        return margin.view(len(which), -1)

    def _in_parts(self, rows: int, number: int, evaluate: Callable[[slice], None]) -> None:
        """Call ``evaluate`` with parts of so many rows that fit into a batch, and into memory."""
        done = 0
        while done < rows:
            part = max(1, self.batch_size // max(1, number))
            try:
                evaluate(slice(done, done + part))
                done += part
                continue
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or self.batch_size == 1:
                    raise
            # After the except clause, whose error holds on to what the batch had allocated.
            self.batch_size //= 2
            if self.images.device.type == "cuda":
                torch.cuda.empty_cache()

    def margins(self, which: Tensor, beta: Tensor, stage: int, number: int) -> Tensor:
        """:meth:`_margins` of any number of rows, on the host."""
        for row in which.tolist():
            self.passes[row] += max(1, number)
        found = torch.empty(len(which), max(1, number))

        def evaluate(part: slice) -> None:
            found[part] = self._margins(which[part], beta[part], stage, number).cpu()

        with torch.no_grad():
            self._in_parts(len(which), number, evaluate)
        return found

    def calibrate(self, beta: Tensor, number: int) -> Tensor:
        """Choose every image's τ by its margins at β (K, d); returns them, (K, number)."""
        every = torch.arange(len(self.indices))
        margins = self.margins(every, beta, 0, number)
        self._scale = margins.abs().median(dim=1).values.clamp_min(1e-3).to(self.images.device)
        return margins

    def scores(self, which: Tensor, beta: Tensor, stage: int, number: int) -> Tensor:
        """(R,) scores; see the class."""
        margins = self.margins(which, beta, stage, number)
        return torch.tanh(margins / self._scale.cpu()[which][:, None]).mean(dim=1).double()

    def gradient(
        self, which: Tensor, u: Tensor, parameters: Callable[[Tensor], Tensor], stage: int, number: int
    ) -> tuple[Tensor, Tensor]:
        """Scores (R,) and their gradients (R, k) at points u (R, k), through the transformation and the network.

        The expectation over the smoothing laws is that over the draws (EOT: Athalye et al. 2018). Zeros where the
        transformation has no derivative, as whole shifts have none, or where it or the network keeps tensors that were
        made as votes were taken, of which torch has none.
        """
        values, slopes = torch.empty(len(which), dtype=torch.float64), torch.zeros_like(u)
        for row in which.tolist():
            self.passes[row] += _BACKWARD * max(1, number)

        def evaluate(part: slice) -> None:
            point = u[part].clone().requires_grad_(True)
            try:
                margins = self._margins(which[part], parameters(point), stage, number)
            except RuntimeError as error:
                if "Inference tensors" not in str(error):
                    raise
                with torch.no_grad():
                    margins = self._margins(which[part], parameters(point), stage, number)
            score = torch.tanh(margins / self._scale[which[part].to(margins.device)][:, None]).mean(dim=1)
            if score.requires_grad:
                (slope,) = torch.autograd.grad(score.sum(), point, allow_unused=True)
                if slope is not None:
                    slopes[part] = slope.nan_to_num(0.0, 0.0, 0.0)
            values[part] = score.detach().double().cpu()

        self._in_parts(len(which), number, evaluate)
        return values, slopes
