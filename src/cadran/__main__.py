"""``python -m cadran``."""

from cadran.cli.app import main

main()
