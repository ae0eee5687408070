"""Detection of non-finite or exploding replicas: energies, forces and kinetic temperatures."""

from __future__ import annotations

import math

import torch

from .state import LangevinState, SamplingError


def check_stability(state: LangevinState, kinetic: bool = True, limit: float = 100.0) -> None:
    """Raise if energies, forces or kinetic temperatures of a replica are not finite or far too large.

    Parameters
    ----------
    state
        Replicas.
    kinetic
        Also compare kinetic temperatures with ``limit`` times the temperature.
    limit
        For 3 degrees of freedom, equilibrium exceeds a hundred times the temperature with probability 1e-64.

    Raises
    ------
    SamplingError
        Naming replicas, step and remedies.
    """
    # a sum is finite only if every term is: one fast reduction each instead of an elementwise test
    if not math.isfinite(float(state.energy.sum() + state.forces.sum())):
        bad = ~(torch.isfinite(state.energy) & torch.isfinite(state.forces).flatten(1).all(1))
        if not bool(bad.any()):  # finite, but the sum overflowed
            bad = state.forces.abs().amax((1, 2)) == state.forces.abs().max()
        what = "energies or forces are not finite"
    elif kinetic:
        bad = ~(state.kinetic_temperature() < limit * state.temperature)
        if not bool(bad.any()):
            return
        what = f"kinetic temperatures exceed {limit:g} times the thermostat's"
    else:
        return
    replicas = torch.nonzero(bad).flatten().tolist()
    shown = ", ".join(map(str, replicas[:8])) + (", …" if len(replicas) > 8 else "")
    raise SamplingError(
        f"{what} in {len(replicas)} of {len(state.energy)} replicas ({shown}) at step {state.step}. "
        + (
            "Start from configurations inside the model's domain."
            if state.step == 0
            else f"Try a timestep below {state.timestep:g} fs (stability needs ω·dt < 2), relax the start, or check "
            "that the model is repulsive outside its data (a baseline). The samples so far are in the exception's "
            ".trajectory."
        ),
        replicas,
        state.step,
    )
