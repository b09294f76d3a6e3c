"""`python -m infoaug`: the command, as a job of a cluster calls it."""

from infoaug.orchestrator.cli import main

main()
