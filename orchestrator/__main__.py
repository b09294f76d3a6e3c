"""`python -m orchestrator`, as a job on a cluster calls it: the command `infoaug`, of the code that was sent."""

from orchestrator.cli import main

main()
