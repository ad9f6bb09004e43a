"""Transformations as a user writes them, without factors, each with the built-in one that has the exact values."""

import torch

import glsmooth as gs


class Brighten(gs.ResolvableTransform):
    """x + b, with nothing declared but the resolving function."""

    name = "brighten"
    parameters = ("b",)
    identity = torch.zeros(1, dtype=torch.float64)

    def apply(self, images, theta):
        return images + theta[:, 0].to(images)[:, None, None, None]

    def resolve(self, alpha, beta):
        return alpha + beta


class Affine(gs.ResolvableTransform):
    """c·x + b."""

    name = "affine"
    parameters = ("c", "b")
    identity = torch.tensor([1.0, 0.0], dtype=torch.float64)

    def apply(self, images, theta):
        c, b = theta.to(images)[:, :, None, None, None].unbind(1)
        return c * images + b

    def resolve(self, alpha, beta):
        c, b = alpha.unbind(-1)
        return torch.stack((c * beta[..., 0], c * beta[..., 1] + b), dim=-1)


class CurvedAffine(gs.ResolvableTransform):
    """e^p·x + log q: the affine group in a curved chart, where γ is neither linear nor commutative."""

    name = "curved_affine"
    parameters = ("p", "q")
    identity = torch.tensor([0.0, 1.0], dtype=torch.float64)

    def apply(self, images, theta):
        p, q = theta.to(images)[:, :, None, None, None].unbind(1)
        return torch.exp(p) * images + torch.log(q)

    def resolve(self, alpha, beta):
        p, q = alpha.unbind(-1)
        return torch.stack((p + beta[..., 0], q * beta[..., 1] ** torch.exp(p)), dim=-1)


class Rescale(gs.ResolvableTransform):
    """c·x with positive c."""

    name = "rescale"
    parameters = ("c",)
    identity = torch.ones(1, dtype=torch.float64)

    def apply(self, images, theta):
        return images * theta[:, 0].to(images)[:, None, None, None]

    def resolve(self, alpha, beta):
        return alpha * beta


BRIGHTEN = gs.SmoothedFamily(Brighten(), {"b": gs.Normal(0, 0.3)})
AFFINE = gs.SmoothedFamily(Affine(), {"c": gs.LogNormal(0, 0.6), "b": gs.Normal(0, 0.6)})
CURVED = gs.SmoothedFamily(CurvedAffine(), {"p": gs.Normal(0, 0.6), "q": gs.LogNormal(0, 0.6)})
BUILTIN_AFFINE = gs.SmoothedFamily(
    gs.transforms.ContrastBrightness(), {"contrast": gs.LogNormal(0, 0.6), "brightness": gs.Normal(0, 0.6)}
)
