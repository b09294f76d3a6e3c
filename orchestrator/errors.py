"""The two ways a command ends badly; each carries one sentence for the user, and no traceback is shown."""


class UsageError(Exception):
    """The user asked for something that cannot be: exit code 2."""


class StageError(Exception):
    """A stage could not do its work: exit code 1. What was computed before stays on the store."""
