"""Tables say the same on the terminal, in Markdown and as CSV, whatever names there are."""

import csv
import dataclasses
import io
import json
import random
import re

import pytest
from rich.console import Console

from infoaug.orchestrator.comparison import tables
from infoaug.orchestrator.comparison.arms import MI, Sweep
from infoaug.orchestrator.comparison.effects import effect_tables
from tests.orchestrator.comparison.sweeps import MALICIOUS, SIMCLR, rich_sweep, sweep, three_frameworks, trial, trials


def printed(of: Sweep, width: int = 80) -> str:
    """The tables as a terminal shows them."""
    console = Console(width=width)
    with console.capture() as captured:
        for table in tables.terminal_tables(of):
            console.print(table)
    return captured.get()


def read(text: str) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(text)))


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table."""
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_line_has_means_differences_and_p_values_under_the_header() -> None:
    table = three_frameworks()
    assert tables.header(table) == [
        "framework", "none", "random", "MI twin", "Δ none", "p", "Δ random", "p",
    ]  # fmt: skip
    simclr = [cell.text for cell in tables.lines(table)[0]]
    assert simclr[:4] == ["SimCLR", "51.0 ± 2.5", "50.3 ± 3.8", "54.0 ± 2.5"]
    assert simclr[4] == "+3.0 ± 2.5"
    assert simclr[5] == ".035"  # t = 3 · √3 with two degrees of freedom


def test_missing_arms_are_dashes() -> None:
    vicreg = [cell.text for cell in tables.lines(three_frameworks())[2]]
    assert (vicreg[0], vicreg[2]) == ("VICReg", "–")
    assert vicreg[-2:] == ["–", "–"]


def test_references_that_the_sweep_does_not_have_get_no_column() -> None:
    table = effect_tables(sweep(trials({"none": [0.5], MI: [0.5]})))[0]
    assert tables.header(table) == ["framework", "none", "MI twin", "Δ none", "p"]


def test_fewer_seeds_than_usual_are_said_in_the_cell() -> None:
    table = effect_tables(sweep(trials({"none": [0.5, 0.6, 0.7], MI: [0.5, 0.6]})))[0]
    line = [cell.text for cell in tables.lines(table)[0]]
    assert line[1] == "60.0 ± 24.8"
    assert line[2].endswith(" (n = 2)")


def test_significant_differences_stand_out_everywhere() -> None:
    of = sweep(trials({"none": [0.500, 0.521, 0.513], MI: [0.600, 0.622, 0.614]}))
    line = tables.lines(effect_tables(of)[0])[0]
    assert [cell.bold for cell in line] == [False, False, False, True, True]
    assert line[4].text.endswith(" *")
    assert r" \*** |" in tables.markdown(of)
    assert re.search(r"p < \.001 \*", printed(of))


def test_the_terminal_shows_every_number_in_eighty_columns() -> None:
    text = printed(rich_sweep())
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "…" not in text
    for shown in ("SimCLR, ring", "VICReg", "all", "Δ random", "cifar10, kNN", "Benjamini"):
        assert shown in text


def test_markdown_has_a_table_for_each_block_with_as_many_cells_in_every_line() -> None:
    of = rich_sweep()
    text = tables.markdown(of)
    found = re.findall(r"(?:^\|.*\n?)+", text, re.MULTILINE)
    effects = effect_tables(of)
    assert len(found) == len(effects) + sum(bool(table.choices) for table in effects) + 1  # and what failed
    for table in found:
        assert len({len(cells(line)) for line in table.splitlines()}) == 1
    assert "vicreg, seed 7 | failed | out of memory" in text


def test_names_stay_in_their_cell_whatever_they_are() -> None:
    of = sweep(trials(SIMCLR, MALICIOUS), name=MALICIOUS, failed=[(MALICIOUS, "two\nlines | <b>")])
    text = tables.markdown(of)
    assert "<script>" not in text.replace(r"\<script\>", "")
    assert all(line.startswith(("|", "#", "**")) or "|" not in line.replace(r"\|", "") for line in text.splitlines())
    unescaped = re.sub(r"\\([\\`*_\[\]<>#|~&$])", r"\1", text)
    assert MALICIOUS in unescaped
    assert "two lines | <b>" in unescaped
    assert MALICIOUS in printed(of, 200)
    assert read(tables.trials_csv(of))[0]["framework"] == MALICIOUS


def test_the_trials_csv_has_a_row_a_trial_and_data_set_with_all_digits() -> None:
    of = rich_sweep()
    rows = read(tables.trials_csv(of))
    assert len(rows) == 3 * len(of.trials)
    by_run = {(row["run"], row["dataset"]): row for row in rows}
    for one in of.trials:
        row = by_run[one.run, "cifar10"]
        assert float(row["probe"]) == one.results["cifar10"]["probe"]
        assert (row["framework"], row["policy"], int(row["seed"])) == (one.framework, one.policy, one.seed)
        assert float(row["seconds"]) == one.seconds
        assert json.loads(by_run[one.run, "paintings"]["probe_matrix"]) == one.results["paintings"]["probe_matrix"]


def test_a_trial_without_results_and_its_other_settings_are_in_the_csv() -> None:
    rows = read(tables.trials_csv(sweep([trial(results={}, other={"score.k": "7"}), trial("none")])))
    assert [(row["policy"], row["score.k"], row["dataset"]) for row in rows] == [
        ("none", "", "cifar10"),
        (MI, "7", ""),
    ]


def test_the_summary_csv_has_the_numbers_of_the_tables() -> None:
    of = rich_sweep()
    rows = read(tables.summary_csv(of))
    table = effect_tables(of)[0]
    for line in table.rows:
        assert line.setting is not None
        (row,) = (
            row
            for row in rows
            if (row["framework"], row["negatives"]) == line.setting[:2]
            and (row["policy"], row["twin_weight"], row["dataset"], row["metric"]) == (MI, "0.5", "cifar10", "probe")
        )
        assert float(row["mean"]) == line.accuracy[MI].mean
        assert int(row["n"]) == 3
        for name, test in (("to_none", line.to_none), ("to_random", line.to_random)):
            if test is None:
                assert {row[f"{name}_{key}"] for key in ("n", "mean", "half", "p", "q")} == {""}
            else:
                assert float(row[f"{name}_mean"]) == test.difference.mean
                assert row[f"{name}_q"] == ("" if test.q is None else repr(test.q))
    assert {row["metric"] for row in rows} == {"probe", "knn", "validation_probe", "rank_me"}
    assert any(row["to_none_q"] for row in rows)
    assert not any(row["to_none_n"] for row in rows if row["policy"] == "none")


def test_the_interval_of_one_seed_stands_beside_its_difference_everywhere() -> None:
    shares = {"none": 0.5, "random": 0.48, MI: 0.6}
    results = {policy: {"cifar10": {"probe": share, "test": 100}} for policy, share in shares.items()}
    of = sweep([trial(policy, results=result) for policy, result in results.items()])
    assert "+10.0 (−3.7 to +23.2) |" in tables.markdown(of)
    text = printed(of)
    assert "(−3.7" in text and "to +23.2)" in text and max(map(len, text.splitlines())) <= 80 and "…" not in text
    (row,) = (row for row in read(tables.summary_csv(of)) if row["policy"] == MI)
    test = effect_tables(of)[0].rows[0].to_none
    assert test and (float(row["to_none_low"]), float(row["to_none_high"])) == test.difference.bounds
    assert row["to_none_half"] == row["to_none_p"] == ""


def test_an_empty_sweep_still_has_all_tables() -> None:
    assert tables.markdown(sweep([])).startswith("# demo")
    assert tables.terminal_tables(sweep([])) == []
    assert read(tables.trials_csv(sweep([]))) == read(tables.summary_csv(sweep([]))) == []


@pytest.mark.parametrize("write", ["markdown", "trials_csv", "summary_csv"])
def test_the_order_of_the_trials_changes_no_character(write: str) -> None:
    of = rich_sweep()
    shuffled = dataclasses.replace(of, trials=random.Random(1).sample(list(of.trials), len(of.trials)))
    function = getattr(tables, write)
    assert function(of) == function(shuffled)
