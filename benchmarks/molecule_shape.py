"""Length scales of the kinds of pairs of ethanol for ``molecule.py``: least error on validation frames, by gradient.

The model of ``molecule.py`` with one length scale for each of the 17 kinds of pairs is trained on a few frames. The
mean squared error of forces on validation frames is minimised (Adam) with respect to the logarithms of the length
scales, by automatic differentiation through covariance and solve. The ratio of the noise to the prior standard
deviation of the forces is fixed: the larger it is, the faster iterative solvers converge. Maximum evidence cannot
replace this: the forces have no noise and are smoother than a Matérn process, and its optimum predicts worse.

    python benchmarks/molecule_shape.py /tmp/peers/ethanol.npz --frames 60 --steps 60
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from molecule import SHAPE, Data, group, kinds_of_pairs
from torch import Tensor

LEFT, RIGHT = np.triu_indices(9, 1)


def inverse_distances(positions: np.ndarray) -> tuple[Tensor, Tensor]:
    """z = 1/r of all pairs, (n, 36), and ∂z/∂R, (n, 36, 9, 3)."""
    x = torch.as_tensor(positions)
    v = x[:, RIGHT] - x[:, LEFT]
    z = 1.0 / v.norm(dim=-1)
    jacobian = torch.zeros(len(x), 36, 9, 3, dtype=x.dtype)
    slope, pair = -(z**3)[..., None] * v, np.arange(36)
    jacobian[:, pair, RIGHT], jacobian[:, pair, LEFT] = slope, -slope
    return z, jacobian


def copies(positions: np.ndarray) -> list[tuple[Tensor, Tensor]]:
    """z(pR) and its derivative by R, for each permutation p."""
    out = []
    for p in np.array(group()):
        z, jacobian = inverse_distances(positions[:, p])
        out.append((z, jacobian[:, :, np.argsort(p)].flatten(2)))
    return out


def covariance(a: tuple[Tensor, Tensor], images: list[tuple[Tensor, Tensor]], lengthscale: Tensor) -> Tensor:
    """Mean over images of the covariances of forces, (27 n, 27 m), for the Matérn 5/2 kernel of unit variance.

    With u = √5 ‖z − z'‖ it is 5/3 e^(−u) J [(1 + u) 1 − 5 (z − z')(z − z')ᵀ] J'ᵀ, z in units of the length scales.
    """
    za, ja = a[0] / lengthscale, (a[1] / lengthscale[:, None]).mT
    out = za.new_zeros(len(za), 27, len(images[0][0]), 27)
    for z, jacobian in images:
        zb, jb = z / lengthscale, (jacobian / lengthscale[:, None]).mT
        # a tiny number keeps the square root differentiable if points coincide
        u = (5.0 * ((za[:, None] - zb[None]) ** 2).sum(-1) + 1e-24).sqrt()
        decay = 5.0 / 3.0 * torch.exp(-u)
        plain = (ja.flatten(0, 1) @ jb.flatten(0, 1).T).view_as(out)
        left = (ja @ za[:, :, None]) - (ja.flatten(0, 1) @ zb.T).view(len(za), 27, -1)
        right = (jb.flatten(0, 1) @ za.T).view(len(zb), 27, -1) - jb @ zb[:, :, None]
        outer = left[:, :, :, None] * right.permute(2, 0, 1)[:, None]
        out = out + plain * (decay * (1.0 + u))[:, None, :, None] - outer * (5.0 * decay)[:, None, :, None]
    return (out / len(images)).reshape(27 * len(za), -1)


def error(train: tuple, validation: tuple, lengthscale: Tensor, ratio: float) -> Tensor:
    """Mean squared error of forces on validation frames, (eV/Å)²; both sets hold forces and their descriptors."""
    (y, images), (target, points) = train, validation
    gram = covariance(images[0], images, lengthscale)
    noise = ratio**2 * gram.detach().diagonal().mean()
    weights = torch.cholesky_solve(y, torch.linalg.cholesky(gram + noise * torch.eye(len(gram), dtype=gram.dtype)))
    return (covariance(points, images, lengthscale) @ weights - target).pow(2).mean()


def main(argv: list[str] | None = None) -> dict[tuple[int, int], float]:
    """Command line: print the length scales as they improve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="file of ethanol.py")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--validation", type=int, default=80, help="validation frames")
    parser.add_argument("--ratio", type=float, default=2e-2, help="noise over prior standard deviation of forces")
    parser.add_argument("--start", type=float, help="one length scale to start from, Å⁻¹; SHAPE if not given")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rate", type=float, default=0.05, help="step of the logarithms")
    parser.add_argument("--seed", type=int, default=0, help="seed of the choice of frames")
    args = parser.parse_args(argv)
    data = Data(args.data, args.frames, args.seed)
    kinds = kinds_of_pairs()
    names = list(SHAPE)
    member = torch.tensor([names.index(kind) for kind in kinds])
    train = torch.as_tensor(data.train[1]).reshape(-1, 1), copies(data.train[0])
    z, jacobian = inverse_distances(data.validation[0][: args.validation])
    validation = torch.as_tensor(data.validation[1][: args.validation]).reshape(-1, 1), (z, jacobian.flatten(2))
    logarithms = torch.tensor([args.start or SHAPE[name] for name in names], dtype=torch.float64).log()
    logarithms.requires_grad_(True)
    optimizer = torch.optim.Adam([logarithms], lr=args.rate)
    best, found = np.inf, logarithms.detach().clone()
    for step in range(args.steps):
        optimizer.zero_grad()
        loss = error(train, validation, logarithms.exp()[member], args.ratio)
        if float(loss.detach()) < best:
            best, found = float(loss.detach()), logarithms.detach().clone()
        loss.backward()
        optimizer.step()
        print(f"step {step}: validation error {float(loss.detach()) ** 0.5:.5f} eV/Å rms", flush=True)
    shape = {name: float(value) for name, value in zip(names, found.exp(), strict=True)}
    for name, value in shape.items():
        print(f"    {name}: {value:.2f},")
    return shape


if __name__ == "__main__":
    main()
