"""`python -m agents`: the command line, also where the `batuta` script is not on the path."""

from agents.cli import main

main()
