from __future__ import annotations

import io
import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from efpn.errors import UserError
from efpn.evaluation.compare import (
    comparison_markdown,
    comparison_table,
    equal_time,
    gain_shares,
    show,
    without_control,
)
from efpn.evaluation.report import draw_costs
from efpn.evaluation.rows import Row, comparable, load_row, load_rows

FPN = {"AP": 0.4, "AP50": 0.5, "AP_S": 0.2, "AP_M": 0.5, "AP_L": None, "AR_S": 0.5, "F1_S": 0.25}
EFPN = {"AP": 0.45, "AP50": 0.5, "AP_S": 0.2821, "AP_M": 0.49, "AP_L": 0.7, "AR_S": None, "F1_S": 0.5}


def run(folder, name, metrics, **more):
    folder.mkdir()
    record = {"name": name, "split": "toy/test", "metrics": metrics, "thresholds": {"fixed": 0.5}, **more}
    (folder / "metrics.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def both(tmp_path):
    return [run(tmp_path / "a", "FPN", FPN), run(tmp_path / "b", "EFPN", EFPN)]


def test_markdown_to_the_letter(both):
    assert comparison_markdown(load_rows(both)) == (
        "|  | AP | AP50 | AP_S | AP_M | AP_L | AR_S | F1_S |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| FPN | 0.400 | 0.500 | 0.200 | 0.500 | n/a | 0.500 | 0.250 |\n"
        "| EFPN | 0.450 (+0.050) | 0.500 (+0.000) | 0.282 (+0.082) | 0.490 (-0.010) | 0.700 | n/a | 0.500 (+0.250) |\n"
    )


def test_the_rules_of_size_stand_below(tmp_path):
    rules = {"ap_size_rule": "annotation", "f1_size_rule": "long_side"}
    rows = load_rows([run(tmp_path / "a", "FPN", FPN, rules=rules), run(tmp_path / "b", "EFPN", EFPN, rules=rules)])
    said = (
        "Sizes in native pixels. AP and AR: square root of the annotation's own area, of the box's where it gives "
        "none. Accuracy, recall and F1: longer side of the box."
    )
    assert comparison_markdown(rows).endswith(f"|\n\n{said}\n")
    page = io.StringIO()
    Console(file=page, width=80).print(comparison_table(rows))
    assert " ".join(page.getvalue().split()).endswith(said)


def test_other_columns(both):
    table = comparison_markdown(load_rows(both), columns=("AP_S",))
    assert table.splitlines()[0] == "|  | AP_S |"


def test_console_shows_the_same_numbers_in_80_columns(both):
    page = io.StringIO()
    Console(file=page, width=80).print(comparison_table(load_rows(both)))
    lines = [line.split() for line in page.getvalue().splitlines()]
    assert ["FPN", "0.400", "0.500", "0.200", "0.500", "n/a", "0.500", "0.250"] in lines
    assert ["EFPN", "0.450", "0.500", "0.282", "0.490", "0.700", "n/a", "0.500"] in lines
    assert ["(+0.050)", "(+0.000)", "(+0.082)", "(-0.010)", "(+0.250)"] in lines


def test_a_pipe_gets_every_column_and_line_whole(tmp_path, capsys):
    names = [f"{what}{size}" for what in ("AP", "AR", "F1", "acc") for size in ("", "_S", "_M", "_L")]
    rows = [run(tmp_path / name, name, dict.fromkeys(names, 0.5)) for name in ("a", "b")]
    show(load_rows(rows), tmp_path / "compared", names)
    assert names in [line.split() for line in capsys.readouterr().out.splitlines()]


def test_gains_are_green_and_losses_red(both):
    page = io.StringIO()
    Console(file=page, width=80, force_terminal=True, color_system="standard").print(comparison_table(load_rows(both)))
    text = page.getvalue()
    assert "\x1b[32m(+0.050)" in text
    assert "\x1b[31m(-0.010)" in text
    assert "\x1b[32m(+0.000)" not in text


def test_a_file_serves_as_well_as_its_directory(both):
    assert load_row(both[0] / "metrics.json").metrics == load_row(both[0]).metrics


def test_rows_of_one_name_are_told_apart(tmp_path):
    rows = load_rows([run(tmp_path / "seed0", "EFPN", EFPN), run(tmp_path / "seed1", "EFPN", EFPN)])
    assert [row.name for row in rows] == [f"EFPN ({tmp_path / folder})" for folder in ("seed0", "seed1")]


@pytest.mark.parametrize(
    ("more", "term"),
    [
        ({"split": "toy/val"}, "split"),
        ({"rules": {"f1_size_rule": "area"}}, "rules"),
        ({"thresholds": {"fixed": 0.3}}, "threshold"),
        ({"classes": {"1": "b", "2": "a"}}, "classes"),
    ],
)
def test_runs_measured_differently_are_refused(tmp_path, more, term):
    first = run(tmp_path / "a", "FPN", FPN, rules={"f1_size_rule": "long_side"}, classes={"1": "a", "2": "b"})
    other = run(tmp_path / "b", "EFPN", EFPN, **more)
    with pytest.raises(UserError, match=f"cannot be compared: {term} differ"):
        load_rows([first, other])


def test_a_run_that_does_not_say_its_terms_is_taken(tmp_path, both):
    other = tmp_path / "c"
    other.mkdir()
    (other / "metrics.json").write_text(json.dumps({"metrics": EFPN}))
    assert load_rows([both[0], other])[1].name == str(other)


def test_a_run_that_does_not_say_its_terms_does_not_let_others_differ(tmp_path):
    silent = tmp_path / "silent"
    silent.mkdir()
    (silent / "metrics.json").write_text(json.dumps({"metrics": EFPN}))
    others = [run(tmp_path / split, "FPN", FPN, split=split) for split in ("val", "test")]
    with pytest.raises(UserError, match="cannot be compared: split differ"):
        load_rows([silent, *others])


def test_bad_input_is_named(tmp_path, both):
    with pytest.raises(UserError, match=r"metrics\.json: no such file"):
        (tmp_path / "empty").mkdir()
        load_rows([tmp_path / "empty"])
    with pytest.raises(UserError, match="nothing to compare"):
        load_rows([])
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(UserError, match=r"list\.json: no 'metrics' in it"):
        load_rows([tmp_path / "list.json"])
    with pytest.raises(UserError, match="no metric 'AP_XS' for the comparison; it holds AP, AP50"):
        comparison_markdown(load_rows(both), columns=("AP_XS",))


def test_a_finetuned_row_without_a_control_says_so(tmp_path):
    phases = ("baseline", "finetune", "control_head")
    rows = load_rows([run(tmp_path / name, name, FPN, more={"phase": name, "variant": "own"}) for name in phases])
    show(rows[:2], tmp_path / "comparison")
    said = (tmp_path / "comparison.md").read_text()
    assert "part of its gain may be the longer training. phase=control_head trains" in said
    assert without_control(rows[:2]) in said
    assert without_control(rows) == without_control(rows[:1]) == without_control(rows[1:]) == ""


def test_share_of_the_gain_by_hand(tmp_path):
    """The control head has .300 and the bound .500: .440 takes 70 % of that; a gain of .004 is not shared out."""
    values = {"control_head": (0.3, 0.700), "finetune": (0.44, 0.702), "oracle_head": (0.5, 0.704)}
    folders = [
        run(
            tmp_path / phase,
            phase,
            FPN | {"AP_S": small, "AR_S": recall, "AP_S_any": None},
            metrics_at_best_f1={"F1_S": small},
            more={"phase": phase, "variant": "own"},
        )
        for phase, (small, recall) in values.items()
    ]
    results = load_rows(folders)
    lines = gain_shares(results).splitlines()
    assert lines[0] == "| share of the gain | of | AP_S | AP_S_any | AR_S | best_F1_S |"
    assert lines[2] == "| finetune | oracle_head | 70% | n/a | n/a | 70% |" and len(lines) == 5
    assert gain_shares(results[:2]) == gain_shares(results[1:]) == ""
    show(results, tmp_path / "comparison")
    assert gain_shares(results) in (tmp_path / "comparison.md").read_text()
    another = run(tmp_path / "another", "another", FPN, more={"phase": "control_head", "variant": "own"})
    assert gain_shares(load_rows([*folders, another])) == ""  # of two runs: whose control head it is is not known


def test_shares_are_taken_of_the_bounds_of_the_same_seed(tmp_path):
    small = {0: (0.3, 0.4, 0.5), 1: (0.2, 0.25, 0.3), 2: (0.3, 0.4)}  # of control head, finetuned, bound
    folders = [
        run(tmp_path / f"{phase}{seed}", f"{phase}{seed}", FPN | {"AP_S": value}, seed=seed, more={"phase": phase})
        for seed, values in small.items()
        for phase, value in zip(("control_head", "finetune", "oracle_head"), values, strict=False)
    ]
    rows = gain_shares(load_rows(folders)).splitlines()[2:-2]
    assert [row.split(" | n/a")[0] for row in rows] == [
        "| finetune0 | oracle_head0 | 50%",
        "| finetune1 | oracle_head1 | 50%",
    ]


def changed(phase="finetune", variant="own", change="nothing", **more):
    return {"phase": phase, "variant": variant, "changed in the model": change, **more}


def names(tmp_path, *rows):
    """Names in a table of rows that all wrote the same name down; a row is its seed and what its record says more."""
    folders = [
        run(tmp_path / f"{n}", "demo/finetune", FPN, seed=seed, more=more) for n, (seed, more) in enumerate(rows)
    ]
    return [row.name for row in load_rows(folders)]


def test_a_row_with_a_changed_model_says_so_beside_the_one_without(tmp_path):
    """Only where both are in one table: alone, either is the run."""
    plain, other = (0, changed()), (0, changed(change="rpn.score_thresh-0.05"))
    assert names(tmp_path, plain, other) == ["demo/finetune", "demo/finetune rpn.score_thresh-0.05"]
    assert load_rows([tmp_path / "1"])[0].name == "demo/finetune"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(0, changed()), (1, changed())], ["seed0", "seed1"]),
        ([(0, changed()), (0, changed(variant="oracle"))], ["", "oracle"]),
        ([(0, changed(input="64 px (1x)")), (0, changed(input="128 px (1x)"))], ["64 px (1x)", "128 px (1x)"]),
        ([(0, changed()), (0, changed(slices="640 px"))], ["", "640 px"]),  # a fact that nobody listed here
        ([(0, changed(steps=4)), (0, changed(steps=8))], ["steps 4", "steps 8"]),  # told only where nothing else is
        ([(0, changed(steps=4)), (1, changed(steps=8))], ["seed0", "seed1"]),
        (
            [(0, changed()), (0, changed(change="tiles-None")), (1, changed(change="tiles-None"))],
            ["seed0", "seed0 tiles-None", "seed1 tiles-None"],
        ),
    ],
)
def test_a_name_tells_what_differs_and_no_more(tmp_path, rows, expected):
    assert names(tmp_path, *rows) == [f"demo/finetune {words}".strip() for words in expected]


def test_no_two_rows_ever_bear_one_name(tmp_path):
    """Not even rows of which nothing is known, or whose own name is what another is told apart by."""
    assert len(set(names(tmp_path, (0, changed()), (0, changed()), (None, {})))) == 3
    files = [tmp_path / "0/metrics.json", tmp_path / "0/other.json"]
    files[1].write_text(files[0].read_text())
    assert len({row.name for row in load_rows(files)}) == 2
    rows = [
        Row(name, {"metrics": FPN, "seed": seed}, tmp_path / f"{n}/metrics.json")
        for n, (name, seed) in enumerate([("a", 0), ("a", 1), ("a seed0", 0)])
    ]
    assert [row.name for row in comparable(rows)] == [
        f"a seed0 ({tmp_path / '0'})",
        "a seed1",
        f"a seed0 ({tmp_path / '2'})",
    ]


def test_shares_are_of_rows_with_the_same_changes(tmp_path):
    small = {"nothing": (0.3, 0.4, 0.5), "tiles-None": (0.2, 0.25, 0.3)}
    folders = [
        run(tmp_path / f"{phase}{change}", phase, FPN | {"AP_S": value}, seed=0, more=changed(phase, change=change))
        for change, values in small.items()
        for phase, value in zip(("control_head", "finetune", "oracle_head"), values, strict=True)
    ]
    rows = gain_shares(load_rows(folders)).splitlines()[2:-2]
    assert [row.split(" | n/a")[0] for row in rows] == [
        "| finetune | oracle_head | 50%",
        "| finetune tiles-None | oracle_head tiles-None | 50%",
    ]


def timed_row(name, variant, milliseconds, value, small="none"):
    metrics = dict.fromkeys(("AP_S", "AP_S_any", "AR_S", "AP_M", "AP_L"), value)
    more = {"phase": "baseline", "variant": variant, "small RoIs": small}
    record = {"metrics": metrics, "seconds_per_image": milliseconds / 1000, "more": more}
    return Row(name, record, Path(name) / "metrics.json")


@pytest.fixture
def line():
    sizes = {"FPN": ("own", 100, 0.30), "FPN at 2": ("fpn_scaled-2x", 300, 0.50)}
    sizes["FPN at 1.4"] = ("fpn_scaled-1.4x", 200, 0.44)
    return [timed_row(name, *facts) for name, facts in sizes.items()]


def test_a_row_is_held_against_the_fpn_that_takes_as_long(line):
    extended = timed_row("EFPN", "own", 150, 0.45, small="below 40 px, read from p2_ext")  # the FPN: (0.30 + 0.44) / 2
    slow = timed_row("slow", "own", 301, 0.6, small="below 40 px, read from p2_ext")
    lines = equal_time([*line, extended, slow]).splitlines()
    assert lines[2] == "| FPN | 100 |  |  |  |  |  |"
    assert lines[5] == "| EFPN | 150 | +0.080 | +0.080 | +0.080 | +0.080 | +0.080 |"
    assert lines[6] == "| slow | 301 | n/a | n/a | n/a | n/a | n/a |"  # the FPN was not evaluated so large
    other = [replace(row, name=f"other {row.name}", record=deepcopy(row.record)) for row in line]
    for row in other:
        row.record["more"]["trained with"] = "efpn, config other"  # another run's curve does not mix with this one
    assert equal_time([*line, extended, *other]).splitlines()[5] == lines[5]
    assert equal_time([Row("untimed", {"metrics": FPN}, Path("m.json"))]) == ""


def test_time_is_drawn_where_it_was_measured(line, tmp_path):
    extended = timed_row("EFPN", "own", 150, 0.45, small="below 40 px, read from p2_ext")
    assert draw_costs(tmp_path, [line[0], extended]) == {}  # one size of the FPN is no curve
    drawn = draw_costs(tmp_path, [*line, extended])
    assert drawn["time"].is_file()
    data = json.loads((tmp_path / "time.json").read_text())
    assert data["FPN on larger images"]["AP_S"] == [[100.0, 0.30], [200.0, 0.44], [300.0, 0.50]]
    assert data["EFPN"]["AP_L"] == [[150.0, 0.45]]
    for row in (*line, extended):
        row.metrics["AP_L"] = None
    draw_costs(tmp_path, [*line, extended])  # what no row has takes no panel
    assert set(json.loads((tmp_path / "time.json").read_text())["EFPN"]) == {"AP_S", "AP_M"}
