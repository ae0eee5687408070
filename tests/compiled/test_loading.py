"""Without numba, and where machine code cannot be kept."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from kernelfe.compiled import loading, machine_code, plain


def test_without_numba_one_warning_names_the_extra(monkeypatch):
    monkeypatch.setattr(loading, "available", lambda: False)
    loading.loops.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"numba is not installed.*kernelfe\[liquids\]"):
            assert loading.loops() is plain
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert loading.loops() is plain
    finally:
        loading.loops.cache_clear()


def test_machine_code_is_made_again_where_it_cannot_be_kept(monkeypatch):
    numba = pytest.importorskip("numba")
    njit = numba.njit

    def refusing(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return njit(**options)

    with monkeypatch.context() as patch:  # numba compiles functions of its own at the first call
        patch.setattr(numba, "njit", refusing)
        double = machine_code.compiled(lambda x: 2.0 * x)
    assert double(3.0) == 6.0
    assert np.isnan(double(np.nan))
