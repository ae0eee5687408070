"""The list of packages; everything else is in setup.cfg.

``data/`` is shipped as the package ``kernelfe_data``, which ``find:`` in setup.cfg could not add.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["kernelfe", "kernelfe.*"]), "kernelfe_data"])
