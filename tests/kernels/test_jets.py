"""Jets with missing parts do what jets with explicit zeros and index arrays do, by dense matrices."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from kernelfe.kernels import RBF, DotProduct, Jets, Matern52, Sum, label_covariances
from kernelfe.kernels.base import Kernel
from kernelfe.kernels.jets import linear, minus, plus

DIMENSION = 3


@dataclass
class Case:
    """Jets with some of their parts, and frames and components of the labels."""

    jets: Jets
    frames: int
    components: int
    generator: torch.Generator

    def randn(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)

    @property
    def explicit(self) -> Jets:
        """The same jets with every part."""
        jets, (size, rows) = self.jets, (len(self.jets), self.jets.rows)
        return Jets(
            jets.z,
            torch.zeros(size, rows, dtype=torch.float64) if jets.c is None else jets.c,
            torch.zeros(size, rows, DIMENSION, dtype=torch.float64) if jets.w is None else jets.w,
            torch.arange(size) if jets.frame is None else jets.frame,
            torch.arange(rows).expand(size, rows) if jets.label is None else jets.label,
        )

    @property
    def summed(self) -> torch.Tensor:
        """B as a matrix, (frames · components, environments · rows)."""
        jets = self.explicit
        out = torch.zeros(self.frames * self.components, len(jets) * jets.rows, dtype=torch.float64)
        for e in range(len(jets)):
            for r in range(jets.rows):
                out[int(jets.frame[e]) * self.components + int(jets.label[e, r]), e * jets.rows + r] += 1.0
        return out


@st.composite
def cases(draw) -> Case:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    frames, components = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    frame, size = None, frames
    if draw(st.booleans()):
        counts = draw(st.lists(st.integers(0, 3), min_size=frames, max_size=frames))
        frame = torch.repeat_interleave(torch.arange(frames), torch.tensor(counts))
        size = len(frame)
    label, rows = None, components
    if draw(st.booleans()):
        rows = draw(st.integers(1, 3))
        label = torch.randint(0, components, (size, rows), generator=generator)
    parts = draw(st.sampled_from(["c", "w", "cw"]))
    case = Case(Jets(torch.zeros(size, DIMENSION, dtype=torch.float64)), frames, components, generator)
    case.jets = Jets(
        case.randn(size, DIMENSION),
        case.randn(size, rows) if "c" in parts else None,
        case.randn(size, rows, DIMENSION) if "w" in parts else None,
        frame,
        label,
    )
    return case


def same(a: Jets, b: Jets) -> bool:
    """Whether the explicit parts of two jets are the same."""
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("z", "c", "w", "frame", "label"))


@settings(deadline=None, max_examples=60)
@given(cases())
def test_labels_and_rows_are_joined_by_one_matrix(case):
    jets, b, k = case.jets, case.summed, 2
    rows = case.randn(len(jets), jets.rows, k)
    torch.testing.assert_close(jets.scatter(rows, len(b), case.components), b @ rows.flatten(0, 1))
    labels = case.randn(case.frames, case.components, k)
    torch.testing.assert_close(jets.gather(labels).flatten(0, 1), b.T @ labels.flatten(0, 1))
    torch.testing.assert_close(jets.gather(labels[:, :, 0]), jets.gather(labels)[:, :, 0])
    per_frame = case.randn(case.frames, k)
    assert torch.equal(jets.spread(per_frame), per_frame[case.explicit.frame])
    assert jets.direct == (jets.frame is None and jets.label is None)
    counts = torch.bincount(case.explicit.frame, minlength=case.frames)
    assert jets.each(case.frames) == (int(counts[0]) if len(set(counts.tolist())) == 1 else 0)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_reads_and_coefficients_are_transposes(case):
    jets, every, k = case.jets, case.explicit, 2
    value, gradient = case.randn(len(jets), k), case.randn(len(jets), DIMENSION, k)
    expected = every.c[:, :, None] * value[:, None] + torch.einsum("erd,edk->erk", every.w, gradient)
    torch.testing.assert_close(jets.read(value, gradient), expected)
    rows = case.randn(len(jets), jets.rows, k)
    c, w = jets.coefficients(rows)
    assert (c is None, w is None) == (not jets.reads_values, not jets.reads_slopes)
    both = sum(float((p * q).sum()) for p, q in ((c, value), (w, gradient)) if p is not None)
    assert both == pytest.approx(float((rows * expected).sum()), abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(cases(), st.data())
def test_selections_of_frames(case, data):
    start = data.draw(st.integers(0, case.frames))
    stop = data.draw(st.integers(start, case.frames))
    every = case.explicit
    inside = (every.frame >= start) & (every.frame < stop)
    expected = every.map(lambda part: part[inside])
    found = Case(case.jets.slice(start, stop), stop - start, case.components, case.generator)
    assert same(found.explicit, Jets(expected.z, expected.c, expected.w, expected.frame - start, expected.label))
    chosen = torch.tensor(data.draw(st.lists(st.integers(0, case.frames - 1), min_size=1, max_size=5)))
    index = torch.cat([torch.nonzero(every.frame == f)[:, 0] for f in chosen])
    frame = torch.cat([torch.full((int((every.frame == f).sum()),), i) for i, f in enumerate(chosen)])
    expected = every.map(lambda part: part[index])
    found = Case(case.jets.take(chosen), len(chosen), case.components, case.generator)
    assert same(found.explicit, Jets(expected.z, expected.c, expected.w, frame, expected.label))
    for part in ("c", "w", "frame", "label"):  # nothing is made that was missing
        assert (getattr(found.jets, part) is None) == (getattr(case.jets, part) is None)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_maps_of_environments(case):
    jets, every = case.jets, case.explicit
    scale = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)
    moved = Case(jets.scaled(scale).weighted(2.0).contiguous(), case.frames, case.components, case.generator).explicit
    assert same(moved, Jets(every.z * scale, 2.0 * every.c, 2.0 * every.w * scale, every.frame, every.label))
    sorted_ = Case(jets.by_component(), case.frames, case.components, case.generator)
    assert bool((sorted_.explicit.label.diff(dim=1) >= 0).all())
    value, gradient = case.randn(len(jets), 1), case.randn(len(jets), DIMENSION, 1)
    torch.testing.assert_close(
        sorted_.summed @ sorted_.jets.read(value, gradient).flatten(0, 1),
        case.summed @ jets.read(value, gradient).flatten(0, 1),
    )
    alone = jets[:1]
    assert alone.frame is None and alone.label is None and torch.equal(alone.z, jets.z[:1])


def test_identity_makes_no_copies():
    z, labels = torch.zeros(4, 2, dtype=torch.float64), torch.zeros(4, 1, 3, dtype=torch.float64)
    jets = Jets.values(z)
    assert jets.spread(z) is z and jets.gather(labels) is labels and jets.by_component() is jets
    assert jets.scatter(labels, 4, 1).data_ptr() == labels.data_ptr()
    assert jets.slice(0, 4).z.data_ptr() == z.data_ptr()


def test_none_is_zero():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 5.0])
    assert plus(None, None) is None and plus(a, None) is a and plus(None, a) is a
    assert torch.equal(plus(a, b), a + b) and torch.equal(minus(a, b), a - b) and torch.equal(minus(None, b), -b)
    assert minus(a, None) is a and minus(None, None) is None
    assert linear(torch.mul, a, None) is None and torch.equal(linear(torch.mul, a, b), a * b)


KERNELS = [RBF(lengthscale=0.9), Matern52(lengthscale=1.3), Sum((RBF(0.8), DotProduct(2, 0.5, 1.2, 0.0)))]


@settings(deadline=None, max_examples=40)
@given(cases(), st.sampled_from(KERNELS), st.sampled_from([4, 40, 1 << 20]))
def test_label_covariances_are_the_diagonal_of_the_summed_gram(case, kernel, entries):
    kernel = kernel.ready(DIMENSION)
    a = kernel.embed(case.jets)
    # a second read of the same frames, of other coefficients
    b = kernel.embed(Case(case.jets.weighted(-0.7), case.frames, case.components, case.generator).explicit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Kernel, "PAIR_ENTRIES", entries)
        for left, right in ((a, a), (a, b)):
            found = label_covariances(kernel, left, right, case.frames, case.components)
            gram = kernel.gram(left, right).flatten(2).flatten(0, 1) if len(left) else torch.zeros(0, 0).double()
            expected = torch.einsum("li,ij,lj->l", case.summed, gram, case.summed)
            torch.testing.assert_close(found.flatten(), expected, rtol=1e-10, atol=1e-10)
