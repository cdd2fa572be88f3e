"""The application whose scratch files fill the disk: a real process that writes real files.

    python -m cloudisense.demo.writer FOLDER PERCENT

It waits for a line on stdin, writes until PERCENT of the file system is used, and prints how many files it wrote. Their times
are set back by hours and days, as if a batch job had left them there over the last weeks. Every run writes the same names over
again: the same fault is the same fault, and not what an earlier fix had left plus a little.
"""

import os
import random
import sys
import time
from pathlib import Path

HOUR_S = 3600
AGES_H = ((0.10, 2, 5), (0.20, 8, 20), (0.30, 30, 140), (0.40, 170, 480))
"""(share of the files, youngest and oldest in hours): so that every age limit frees another amount."""
FILE_BYTES = (200_000, 800_000)


def main() -> None:
    """Fill."""
    folder, percent = Path(sys.argv[1]), float(sys.argv[2])
    block = os.urandom(FILE_BYTES[1])
    now = time.time()
    print("ready", flush=True)
    sys.stdin.readline()
    written = 0
    while (status := os.statvfs(folder)).f_bavail > status.f_blocks * (1 - percent / 100):
        room = int((status.f_bavail - status.f_blocks * (1 - percent / 100)) * status.f_frsize) + status.f_frsize
        path = folder / f"job-{written:04d}.part"
        path.write_bytes(block[: min(random.randint(*FILE_BYTES), room)])
        (_, low, high), *_ = random.choices(AGES_H, weights=[share for share, _, _ in AGES_H])
        then = now - random.uniform(low, high) * HOUR_S
        os.utime(path, (then, then))
        written += 1
    print(written, flush=True)


if __name__ == "__main__":
    main()
