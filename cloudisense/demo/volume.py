"""Runs inside agent A's own mount namespace: mounts a small real file system, lays its folders out, becomes the agent.

    python -m cloudisense.demo.volume MOUNT_POINT MEGABYTES COMMAND...

Started under ``unshare`` by ``stage``. Nothing that happens here is seen outside, and nothing is left behind.
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDERS = ("cache", "data", "logs", "scratch")


def main() -> None:
    """Mount, furnish, exec."""
    mount_point, megabytes, *command = sys.argv[1:]
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={int(megabytes)}m,mode=0755", "cloudisense-demo", mount_point],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"cannot mount a small file system: {done.stderr.strip()}")
    for folder in FOLDERS:
        (Path(mount_point) / folder).mkdir()
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
