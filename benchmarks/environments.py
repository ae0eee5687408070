"""Separate environments for the peers, whose dependencies may conflict with those of kernelfe.

    python benchmarks/environments.py /tmp/peers                 # all of them
    python benchmarks/environments.py /tmp/peers sgdml quippy    # some

Each is a venv FOLDER/PEER with the exact versions of ``requirements-PEER.txt`` in this folder. The benchmark scripts
take FOLDER as ``--peers``. An existing environment is updated to those versions.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Modules that each environment must be able to import.
PEERS = {
    "sgdml": "sgdml.train",
    "quippy": "quippy",
    "tblite": "tblite.ase",
    "sklearn": "sklearn.gaussian_process",
    "gpytorch": "gpytorch",
}


def create(folder: Path, peer: str) -> None:
    """Create or update one environment, and import the peer in it.

    Raises
    ------
    subprocess.CalledProcessError
        If the packages cannot be installed, or the peer cannot be imported.
    """
    place = folder / peer
    if not (place / "bin" / "python").exists():
        venv.create(place, with_pip=True)
    python = str(place / "bin" / "python")
    requirements = HERE / f"requirements-{peer}.txt"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", str(requirements)], check=True)
    subprocess.run([python, "-c", f"import {PEERS[peer]}"], check=True, stdout=subprocess.DEVNULL)
    print(f"{place} is ready")


def python_of(folder: Path | None, peer: str) -> str | None:
    """Python of a peer's environment, or None for the running one if the environment does not exist."""
    place = folder / peer / "bin" / "python" if folder else None
    return str(place) if place and place.exists() else None


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("peers", nargs="*", choices=[[], *PEERS], default=[], metavar="PEER", help=", ".join(PEERS))
    args = parser.parse_args(argv)
    for peer in args.peers or PEERS:
        create(args.folder, peer)


if __name__ == "__main__":
    sys.exit(main())
