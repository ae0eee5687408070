"""Plain force matching with all bundled frames: the reference point of the ratio of frames.

The quickstart's largest size is 1250 frames per temperature. This script fits plain forces, and all labels, to all
bundled frames (5000 frames at each of 300, 400, 500 and 600 K) with the quickstart's own code and prints
their Jensen–Shannon divergences at 350 K, the latter without and with the density of the frames. Takes some minutes.

    python benchmarks/forces_only.py
"""

from __future__ import annotations

from kernelfe.quickstart import Case, Sampler, run_case


def main() -> None:
    """Run both fits and print one line for each model."""
    for labels in ("forces", "all"):
        for found in run_case(Case(labels, 5000, 0, 1), Sampler(), "kernelfe_data"):
            print(
                f"{found['labels']}: divergence {found['divergence']:.4f}, {found['samples']} samples, "
                f"{found['effective_samples']:.0f} of them effective, fit {found['fit_seconds']:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
