"""``python -m cloudisense``."""

from cloudisense.cli import main

main()
