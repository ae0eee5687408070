"""What the command ``fit`` does beside fitting: conditioning on the density, and saying what was found."""

from __future__ import annotations

import math
from typing import Any

import click


def say_fitted(model: Any, frames: Any, output: str, refined: Any) -> None:
    """What was fitted, and where it is."""
    click.echo(frames)
    for kind, (level, power) in model.noise_.items():
        click.echo(
            f"  noise of {kind}: {level:.4g} at {model.noise_temperature_:.0f} K, power of T {power:.2f} (eV, Å)"
        )
    click.echo(
        f"{type(model.solver_).__name__.lower()} solver: {model.solver_reason_}"
        + ("" if math.isnan(model.log_evidence_) else f"; log evidence {model.log_evidence_:.6g}")
    )
    if refined is not None:
        last = refined.rounds[-1]
        click.echo(
            f"density: {len(refined.rounds)} rounds, {'converged' if refined.converged else 'NOT converged'}, "
            f"{last.distance:.1f} standard deviations from the model of the labels alone, "
            f"{last.samples_per_replica:.1f} independent samples per replica"
        )
    click.echo(f"wrote {output}")


def condition_on_density(
    model: Any, frames: Any, output: str, timestep: float | None, seed: int, progress: bool
) -> Any:
    """The model conditioned on where the frames are found, too, in place of the one in ``output``."""
    from ..training import minimize_relative_entropy

    try:
        refined = minimize_relative_entropy(model, frames, timestep=timestep, seed=seed, progress=progress)
        refined.model.save(output)
    except BaseException:  # Ctrl-C, too: what is in the file must be said
        click.echo(f"The density step failed; {output} holds the model of the labels alone.", err=True)
        raise
    if not refined.converged:
        click.echo(
            f"Warning: the density step has NOT converged after {len(refined.rounds)} rounds, and {output} holds the "
            "model of its last round. Try another --timestep, or kernelfe.training.minimize_relative_entropy with more "
            "rounds, replicas or steps.",
            err=True,
        )
    return refined
