"""`python -m simclr`."""

from simclr.cli import main

main()
