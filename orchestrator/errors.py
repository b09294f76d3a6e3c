"""The two expected ways for a command to fail, and whether running it again can help.

Each error carries one sentence for the user, in which the secrets of URLs are masked. The command prints the sentence;
the traceback goes to the log file.
"""

import builtins
import re

from infoaug.orchestrator.masking import without_secrets


class UsageError(Exception):
    """The user asked for something that cannot be done: exit code 2."""

    def __init__(self, message: str = "") -> None:
        super().__init__(without_secrets(message))


class StageError(Exception):
    """A stage failed: exit code 1. What was complete before stays in the store.

    Attributes:
        retry: False if the same command would fail again in the same way.
    """

    def __init__(self, message: str, *, retry: bool = True) -> None:
        super().__init__(without_secrets(message))
        self.retry = retry


# Causes that lie in the code or in a setting: the same command runs into them again.
_PERMANENT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    SyntaxError,
    TypeError,
    UsageError,
    ValueError,
)
# A RuntimeError is torch's and Ray's for everything. Only with one of these words is it the machine's or the network's.
_TRANSIENT = re.compile(
    r"out of memory|cuda error|cudnn error|nccl|gloo|process group|timed? ?out|connection|unreachable|"
    r"no space left|disk quota|\b(node|worker|actor)\b|killed|preempt",
    re.IGNORECASE,
)
_CLASS_NAME = re.compile(r"(?:\w+\.)*(\w+)")


def worth_retrying(cause: BaseException | str) -> bool:
    """Whether the same command, run again, may get past this error.

    It may after a lost node, lack of memory or disk space, an interruption, or an unreachable server. It will not after
    an error in the code or in a setting.

    Args:
        cause: the error; or its text, as `module.ClassName: message`, where it comes from another process.
    """
    if isinstance(cause, StageError):
        return cause.retry
    if isinstance(cause, BaseException):
        inner = getattr(cause, "cause", None)  # Ray wraps what was raised in a task
        if isinstance(inner, BaseException):
            return worth_retrying(inner)
        kind: type | None = type(cause)
        text = str(cause)
    else:
        name, _, text = cause.partition(":")
        # `RayTaskError(TypeError)` is a TypeError that was raised in a task.
        found = _CLASS_NAME.fullmatch(name.strip().partition("(")[2].rstrip(")") or name.strip())
        kind = {"UsageError": UsageError}.get(found[1], getattr(builtins, found[1], None)) if found else None
    if not isinstance(kind, type):
        return True  # not Python's own: torch.OutOfMemoryError, ray.exceptions.NodeDiedError
    if issubclass(kind, _PERMANENT):
        return False
    return kind is not RuntimeError or bool(_TRANSIENT.search(text))


def remedy(cause: BaseException | str) -> str:
    """What to do about this error, to end a sentence with."""
    if worth_retrying(cause):
        return "run the same command again to continue"
    return "running the same command again will not help"
