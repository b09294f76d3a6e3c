"""Short names of data sets, for MLflow, tables and pages."""

from collections.abc import Callable, Iterable
from pathlib import PurePath


def titles(names: Iterable[str], written: Callable[[str], str] = str) -> dict[str, str]:
    """A short name for each data set, by the name that the config has for it.

    It is the end of the path: as few of its last parts as tell it from all the others (`siteA/images` and
    `siteB/images`, but `pets` for `data/pets`).

    Args:
        names: the data sets of one experiment or sweep.
        written: how a short name is written, for places that do not allow all characters. Names differ as written.
    """
    listed = list(dict.fromkeys(names))
    parts = {name: PurePath(name).parts or (name,) for name in listed}

    def end(name: str, count: int) -> str:
        return written(str(PurePath(*parts[name][-count:])))

    found = {}
    for name in listed:
        others = [other for other in listed if other != name]
        longest = max(len(parts[other]) for other in listed)
        unique = (n for n in range(1, longest + 1) if all(end(name, n) != end(other, n) for other in others))
        length = next(unique, None)
        found[name] = end(name, length) if length else written(name)
    return found
