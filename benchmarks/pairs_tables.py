"""Tables and sentences of benchmarks/pairs.py. An estimate is [value, low, high]; NaN and None are unknown."""

from typing import Any

import numpy as np
from pairs_measures import SENSES

from infoaug.estimators.options import MATCHING_WINDOW


def markdown(results: dict[str, Any]) -> str:
    """All figures as Markdown tables, and what they allow to say."""
    lines = [f"{results['machine']}; {results['windows']} windows. Measured at commit {str(results['commit'])[:12]}."]
    if results["settings"]:
        lines.append(f"Settings other than the default ones: {', '.join(results['settings'])}.")
    titles = {"davis": "DAVIS", "vtest": "vtest.avi", "scenes": "Rendered scenes (synthetic)"}
    for part, group in dict.fromkeys((row["part"], row["clips"]) for row in results["rows"]):
        rows = [row for row in results["rows"] if (row["part"], row["clips"]) == (part, group)]
        half = f", the half for {group}" if group != "all" else ""
        lines += ["", f"## {titles[part]}{half} (sequences: {rows[0]['sequences']})", "", *yield_table(rows)]
        for which in dict.fromkeys(pair["patches"] for pair in rows[0]["pairs"]):
            title = "All patches that have a twin" if which == "all" else "Patches on an object that have a twin"
            lines += ["", f"### {title}", "", *pair_table(rows, which), "", *in_words(rows, which)]
    return "\n".join(lines) + "\n"


def yield_table(rows: list[dict[str, Any]]) -> list[str]:
    """How many twins there are, and what becomes of patches."""
    shares = {"with_twin": "patches with a twin", "object_share": "twins on an object"}
    shares |= {"object_with_twin": "on-object patches with a twin", "lost": "lost", "object_lost": "on-object lost"}
    shares |= {"stayed": "still on the object", "pictured": "on-object patches whose crop shows it"}
    heads = ["patch, px", "at least, crops", "twins a video second", *shares.values()]
    body = []
    for row in rows:
        rate = number(row["twins_a_second"])
        body.append([row["size"], f"{row['apart']:g}", rate, *(percent(row[name]) for name in shares)])
    speeds = {row["size"]: (row["tracking"], row["scoring"]) for row in rows}
    said = (f"{tracking:.1f} and {scoring:.1f} at {size} px" for size, (tracking, scoring) in speeds.items())
    return [*table(heads, body), "", f"Frames a second of one core, tracking and scoring: {', '.join(said)}."]


def pair_table(rows: list[dict[str, Any]], which: str) -> list[str]:
    """How good the twins of every policy are."""
    heads = ["patch, px", "at least, crops", "policy", "n (sequences)", "distance, px", f"below {MATCHING_WINDOW} px"]
    for sense in SENSES:
        heads += [sense, "chance; allowed"]
    body = []
    for row in rows:
        for pair in (pair for pair in row["pairs"] if pair["patches"] == which and pair["n"]):
            cells = [row["size"], f"{row['apart']:g}", pair["policy"], f"{pair['n']} ({pair['sequences']})"]
            distance = pair["distance"]
            cells += ["–" if distance is None or distance != distance else f"{distance:.0f}", percent(pair["close"])]
            for found in (pair[sense] for sense in SENSES):
                chance = "; ".join(percent([found[name], np.nan, np.nan]) for name in ("chance", "allowed"))
                cells += [percent(found["twin"]), chance]
            body.append([*cells, number(pair["shown"]["right_a_second"])])
    return table([*heads, "shown right a video second"], body)


def table(heads: list[str], body: list[list[Any]]) -> list[str]:
    """Lines of a Markdown table."""
    rows = [heads, ["---"] * len(heads), *body]
    return [f"| {' | '.join(map(str, row))} |" for row in rows]


def in_words(rows: list[dict[str, Any]], which: str) -> list[str]:
    """What the intervals allow to say of the first policy by pictures, against chance and the other policies."""
    sense, lines = {"all": "crop", "object": "shown"}[which], []
    for row in rows:
        found = {pair["policy"]: pair[sense] for pair in row["pairs"] if pair["patches"] == which and pair["n"]}
        if found:
            first, *others = found
            against = {"chance": found[first]["excess"]} | {name: found[name]["lead"] for name in others}
            said = "; ".join(f"{name} {signed(value)}" for name, value in against.items())
            lines.append(f"* {row['size']} px, at least {row['apart']:g} crops, by `{sense}`: {first} minus {said}.")
    return lines


def percent(value: list[float]) -> str:
    """A share with its interval, within 0 and 100 %."""
    share, low, high = (np.clip(np.array(value, float), 0, 1) * 100).tolist()
    return "–" if share != share else f"{share:.1f} %" + (f" [{low:.0f}, {high:.0f}]" if low == low else "")


def number(value: list[float]) -> str:
    """A rate with its interval, not below 0."""
    rate, low, high = np.maximum(np.array(value, float), 0).tolist()
    return "–" if rate != rate else f"{rate:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low == low else "")


def signed(value: list[float]) -> str:
    """A difference of shares, in points, with its interval, and whether that tells it from 0."""
    points, low, high = (np.array(value, float) * 100).tolist()
    if low != low:
        return f"{points:+.1f} points (no interval)"
    way = "more" if low > 0 else "less" if high < 0 else "not distinguishable"
    return f"{points:+.1f} points [{low:+.1f}, {high:+.1f}], {way}"


def page(about: str | None, results: dict[str, Any]) -> str:
    """docs/pairs.md, from the docstring of benchmarks/pairs.py and its results."""
    told = (about or "").split("\n\n", 2)[2].rsplit("\n\n", 1)[0]
    how = "`benchmarks/pairs.py` measures this, and with `--render` writes this page from its results."
    return f"# What pairs are worth\n\n{how}\n\n{told}\n\n{markdown(results)}"
