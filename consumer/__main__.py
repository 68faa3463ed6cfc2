"""`python -m consumer` is the console script."""

from consumer.cli import main

main()
