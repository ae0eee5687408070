"""Print a command of README.md, so that what CI runs is what readers are told to run.

    python .ci/readme_command.py test-command

The command is the fenced ``bash`` block that follows the comment ``<!-- test-command -->``.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path


def command(readme: str, mark: str) -> str:
    """The block after ``<!-- mark -->``; raises SystemExit when there is not exactly one."""
    found = re.findall(rf"<!-- {re.escape(mark)} -->\s*```bash\n(.*?)\n```", readme, flags=re.DOTALL)
    if len(found) != 1:
        raise SystemExit(f"README.md has {len(found)} bash blocks after '<!-- {mark} -->'; it must have exactly one")
    return found[0]


if __name__ == "__main__":
    print(command((Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8"), sys.argv[1]))
