"""Names and limits that the estimators share with the config, in a module that imports none of them.

Reading a config must not load OpenCV, Numba or PyTorch.
"""

from typing import Literal, get_args

# A tracker `a-b` is the module `trackers/a_b.py`; `auto` stands for Lucas–Kanade.
CLASSICAL_TRACKERS = ("lucas-kanade", "dense-flow")
LEARNED_TRACKERS = ("cotracker", "tapir")  # need their code and a file of weights
TRACKERS = ("auto", *CLASSICAL_TRACKERS, *LEARNED_TRACKERS)

# Side of the window that Lucas–Kanade matches, pixels. Points that are closer share pixels, and so errors.
MATCHING_WINDOW = 21

ESTIMATORS = ("ksg", "ksg2", "3kl", "npeet")
CONDITIONAL = ("ksg", "npeet")  # can be conditioned on a third variable
KERNELS = ("ksg", "ksg2", "3kl")  # have a compiled kernel
LARGEST_K = 10  # of the compiled kernels, which keep a sample's k smallest distances in registers

Backend = Literal["auto", "cpu", "cuda", "reference"]
BACKENDS: tuple[str, ...] = get_args(Backend)

Policy = Literal[
    "mutual-information",
    "correlation",
    "nearest",
    "shuffled",
    "random",
    "same-clip",
    "other-clip",
    "oracle",
    "later",
    "later+mutual-information",
    "none",
]
POLICIES: tuple[str, ...] = get_args(Policy)
LATER = ("later", "later+mutual-information")  # a patch's own track at another time, always or in half of the steps
RANKED = ("mutual-information", "later+mutual-information")  # by these a patch may have several partners, best first
OTHER_WINDOWS = ("same-clip", "other-clip")  # policies whose twins may be of another window

# The largest window that is read, in bytes of its frames, and so the largest frame too: a file of a few bytes can
# announce frames that no machine has the memory for.
MAX_WINDOW_BYTES = 4 << 30
READ_TIMEOUT = 60.0  # seconds without an answer from a clip's disk until the clip is given up
