"""Tables of rows over seeds: intervals of known width, pairs that share their noise, and what is said of the rest."""

from __future__ import annotations

import csv
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import config, run_here, wandb_records

from efpn.errors import UserError
from efpn.evaluation.bootstrap import Bootstrap, Scores, remembered
from efpn.evaluation.report import write_row
from efpn.evaluation.summary import summarise
from efpn.evaluation.summary_files import latex_table
from efpn.metrics.evaluation import Evaluation
from efpn.metrics.resample import Resampled
from efpn.runs.saved import saved_runs, swept_rows

IMAGES = 40
Make = Callable[..., Path]


def found_with(rate: float, seed: int):
    """One small object in each image, of which a detector finds the share ``rate``."""
    boxes = [{"image_id": i, "category_id": 1, "bbox": [9.0, 9.0, 20.0, 20.0]} for i in range(IMAGES)]
    truth = [{**box, "id": n, "iscrowd": 0} for n, box in enumerate(boxes, start=1)]
    hit = np.random.default_rng(seed).permutation(IMAGES) < rate * IMAGES
    categories = [{"id": 1, "name": "sign"}]
    whole = {"images": [{"id": i} for i in range(IMAGES)], "annotations": truth, "categories": categories}
    return whole, [{**box, "score": 0.9} for box, one in zip(boxes, hit, strict=True) if one]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """``make(row, seed, rate)``: a finished and evaluated training, in the folder of a sweep."""

    def one(row: str, seed: int, rate: float, number: int = 0, split: str = "test", phase: str = "finetune") -> Path:
        run = tmp_path / "x" / row / f"seed{seed}"
        folder = run / phase
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.ckpt").touch()
        record = {"config_hash": "abc", "seed": seed, "metrics": {"val/F1_S": rate}}
        (folder / "metrics.json").write_text(json.dumps(record))
        (folder / "config.yaml").write_text(
            f"{{name: x, seed: {seed}, phases: {{{phase}: {{model: {{extension: null, small: null}}}}}}, "
            f"data: {{}}, model: {{}}, trainer: {{}}, loss: {{lambda_pos: {0.5 + number / 2}}}}}"
        )
        (run / "row.json").write_text(
            json.dumps({"title": f"the {row}_row", "phase": phase, "sweeps": {"lambda": number}})
        )
        truth, found = found_with(rate, seed)
        facts = {
            **dict.fromkeys(("commit", "command", "seconds", "hardware")),
            "seed": seed,
            "more": {"phase": phase, "trained with": "efpn 0, config abc"},
        }
        ids = [one["id"] for one in truth["categories"]]
        place = folder / "eval" / split
        write_row(Evaluation(row, "signs/test", truth, found, 0.5, ids, facts=facts, folder=place))
        return folder

    return one


def summed_up(folder: Path, *words: str) -> dict:
    cfg = config("summarise", f"sweep={folder / 'x'}", "resamples=300", "columns=[AP_S,rec_S]", *words)
    return json.loads((summarise(cfg, swept_rows(cfg.sweep, cfg.rows)) / "summary.json").read_text())


def test_means_spread_and_differences_paired_by_seed(make: Make, tmp_path: Path) -> None:
    for seed, rate in ((0, 0.25), (1, 0.5), (2, 0.75)):
        make("control", seed, rate, 0, phase="control")
        make("same", seed, rate, 1)
        make("better", seed, rate + 0.2, 2)
    make("once", 1, 0.5, 3)
    rows = {row["name"]: row for row in summed_up(tmp_path)["rows"]}
    assert list(rows) == ["control", "same", "better", "once"]
    recall = {name: row["columns"]["rec_S"] for name, row in rows.items()}
    assert recall["control"]["mean"] == pytest.approx(0.5) and recall["control"]["std"] == pytest.approx(0.25)
    assert "difference" not in recall["control"] and rows["control"]["seeds"] == [0, 1, 2]
    assert recall["same"]["difference_interval"] == [0, 0] and recall["same"]["inside_noise"] is True
    low, high = recall["better"]["difference_interval"]
    # seeds are 0.25 apart, but the difference is 0.2 in each: only the images are left as noise
    assert 0.05 < low < 0.2 < high < 0.35 and recall["better"]["inside_noise"] is False
    assert recall["once"]["std"] is None and rows["once"]["paired"] == [1]
    assert summed_up(tmp_path, "reference=better")["reference"] == "the better_row"  # beside the other, not over it
    assert json.loads((tmp_path / "x/summary-test/summary.json").read_text())["reference"] == "the control_row"
    assert recall["control"]["interval"][1] - recall["control"]["interval"][0] > 2 * (high - low)


@pytest.mark.slow
def test_every_form_of_the_table(make: Make, tmp_path: Path) -> None:
    make("control", 0, 0.5, 0, phase="control")
    make("ft_50%", 0, 0.6, 1)
    done = run_here("summarise.py", f"sweep={tmp_path / 'x'}", "table=lambda", "choose=null", "resamples=50")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "x/summary-test-lambda"
    assert {path.suffix for path in folder.iterdir()} == {".md", ".csv", ".tex", ".json", ".png"}
    text = (folder / "summary.md").read_text()
    assert text in done.stdout and "images alone, as there is one seed" in text
    assert "| the ft_50%\\_row | 1 | 1.000 | 0.600 |" in text and "## Difference to the control" in text
    means, gains = (folder / "summary.tex").read_text().split("\n\n")
    assert means.startswith("% mean and standard deviation, 1 seed\n")
    assert gains.startswith("% difference to the control_row, 95 % interval, 1 seed\n")
    assert means.splitlines()[3:6] == [
        r" & \multicolumn{5}{c}{Small} \\",
        r"\cmidrule(lr){2-6}",
        r" & acc & rec & F1 & AP & AR \\",
    ]
    assert r"the ft\_50\%\_row & $100.0$ & $60.0$ & $75.0$ & " in means
    recall = json.loads((folder / "summary.json").read_text())["rows"][1]["columns"]["rec_S"]
    low, high = (100 * end for end in recall["difference_interval"])
    about = r"\approx " if low <= 0 else ""
    assert rf"\shortstack[r]{{${about}+10.0$\\\scriptsize$[{low:+.1f}, {high:+.1f}]$}}" in gains
    lines = list(csv.DictReader((folder / "summary.csv").open()))
    assert [line["column"] for line in lines[:5]] == ["acc_S", "rec_S", "F1_S", "AP_S", "AR_S"]
    assert float(lines[6]["difference"]) == pytest.approx(0.1) and lines[0]["difference"] == ""


def test_columns_of_a_size_stand_together_in_latex() -> None:
    table = latex_table(["a"], [["1", "2", "3", "4"]], ["acc_S", "rec_S", "AP_S_any", "F1_M"]).splitlines()
    assert table[2] == r" & \multicolumn{2}{c}{Small} & \multicolumn{1}{c}{} & \multicolumn{1}{c}{Medium} \\"
    assert table[3:5] == [r"\cmidrule(lr){2-3} \cmidrule(lr){5-5}", r" & acc & rec & AP\_S\_any & F1 \\"]
    assert r"\multicolumn" not in latex_table(["a"], [["1"]], ["AP"])


def test_quick_runs_say_that_their_numbers_mean_nothing(make: Make, tmp_path: Path) -> None:
    folder = make("control", 0, 0.5, 0, phase="control")
    assert not any("mean nothing" in one for one in summed_up(tmp_path)["notes"])
    file = folder / "eval/test/metrics.json"
    record = json.loads(file.read_text())
    file.write_text(json.dumps({**record, "more": {"quick": "yes", **record["more"]}}))
    assert any("mean nothing" in one for one in summed_up(tmp_path)["notes"])
    assert (tmp_path / "x/summary-test/summary.tex").read_text().startswith("% There are rows of quick runs")


def test_lambda_is_chosen_on_validation_and_reported_on_test(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, (row, on_val, on_test) in enumerate((("0.5", 0.4, 0.9), ("1.0", 0.8, 0.5))):
        make(row, 0, on_test, number)
        if number == 0:
            make(row, 0, on_val, number, split="val")
    early = summed_up(tmp_path, "choose=F1_S")
    assert "Nothing is chosen by F1_S: not all rows are evaluated on the validation split." in early["notes"][
        0
    ] and not any(row["chosen"] for row in early["rows"])
    assert re.search(r"on split=val yet; `python evaluate.py 'run=\[.*1.0/seed0/finetune\]' split=val`", caplog.text)
    make("1.0", 0, 0.8, 1, split="val")
    (make("1.5", 0, 0.8, 2) / "weights.ckpt").unlink()
    assert not any(row["chosen"] for row in summed_up(tmp_path, "choose=F1_S")["rows"])
    shutil.rmtree(tmp_path / "x/1.5")
    rows = summed_up(tmp_path, "choose=F1_S")["rows"]
    assert [row["chosen"] for row in rows] == [False, True] and rows[0]["columns"]["rec_S"]["mean"] == 0.9


@pytest.mark.slow
def test_a_summary_goes_to_wandb_with_all_rows_and_the_curve_of_lambda(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))
    for number, (row, rate) in enumerate((("half", 0.4), ("one", 0.8))):
        make(row, 0, rate, number, split="val")
        make(row, 0, rate - 0.1, number)
    wandb_too = ["logger=wandb", "logger.offline=true", f"paths.outputs={tmp_path}"]
    done = run_here("summarise.py", f"sweep={tmp_path / 'x'}", "table=lambda", "resamples=20", *wandb_too)
    assert done.returncode == 0, done.stderr
    records = wandb_records(tmp_path)
    (said,) = records["run"]
    assert (said["run_group"], said["job_type"], said["display_name"]) == ("x", "summarise", "summarise x lambda")
    tables = {one["name"]: lines for one, lines in zip(records["artifact"], records["table"], strict=True)}
    assert [line[:4] for line in tables.pop("rows-x")] == [
        ["half", "the half_row", 0, "finetune"],
        ["one", "the one_row", 0, "finetune"],
    ]
    (curve,) = (lines for name, lines in tables.items() if "curve" in name)
    (summary,) = (lines for name, lines in tables.items() if "summary" in name)
    f1 = {line[0]: line[4] for line in summary if line[2] == "F1_S"}
    assert curve == [[0.5, f1["half"]], [1.0, f1["one"]]] and f1["half"] < f1["one"]
    plots = [one["update"].get("_wandb.visualize.curve", {}) for one in records["config"]]
    assert "'x': 'loss.lambda_pos', 'y': 'test/F1_S'" in str(plots)


def test_what_is_not_trained_or_evaluated_is_left_out_and_said(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make("control", 0, 0.5, 0, phase="control")
    (make("other", 0, 0.5, 1) / "weights.ckpt").unlink()
    (make("again", 0, 0.5, 2) / "metrics.json").write_text('{"config_hash": "trained anew"}')
    summary = summed_up(tmp_path)
    assert [row["name"] for row in summary["rows"]] == ["control"]
    assert summary["notes"][0] == (
        "Incomplete, as these are left out: the other_row, seed0 (not trained to its end); "
        "the again_row, seed0 (not evaluated)."
    )
    for file in ("summary.md", "summary.tex"):
        assert "Incomplete, as these" in (tmp_path / "x/summary-test" / file).read_text()
    assert "other/seed0/finetune is not finished; the sweep's own command goes on" in caplog.text
    assert f"`python evaluate.py 'run=[{tmp_path}/x/again/seed0/finetune]' split=test` does it" in caplog.text


def test_a_sweep_of_which_nothing_is_trained_to_its_end_is_one_line(make: Make, tmp_path: Path) -> None:
    (make("other", 0, 0.5, 1) / "weights.ckpt").unlink()
    with pytest.raises(UserError, match=r"/x: no row is trained to its end; the sweep's own command goes on"):
        summed_up(tmp_path)


def test_mistakes_are_one_line(make: Make, tmp_path: Path) -> None:
    folder = make("control", 0, 0.5, 0, phase="control")
    for word, said in (
        ("rows=[control,cntrl]", r"/x: no rows cntrl there; it has control, lambda"),
        ("rows=table9", r"/x: no rows table9 there; it has control, lambda"),
        (f"sweep={tmp_path}/xx", r"/xx: no such folder \(did you mean .*/x\?\); give"),
        ("reference=fpn", "reference=fpn: no such row; choose from control"),
        ("split=val", "nothing in it is evaluated on split=val; `python evaluate.py"),
        ("variant=true_c2", "/x: no row fits variant=true_c2: true_c2 needs a phase with an extension"),
        ("against=loss.lamda_pos", "against=loss.lamda_pos: no row's run has such an option"),
        ("against=loss", "against=loss: is a group of options; give one value's key"),
    ):
        with pytest.raises(UserError, match=said):
            summed_up(tmp_path, word)
    make("control", 0, 0.5, 0, split="val-limit6", phase="control")
    with pytest.raises(UserError, match=r"on split=val as asked, .* now \(but val-limit6\); `python"):
        summed_up(tmp_path, "split=val")
    (folder / "eval/test/detections.json").write_text("[]")
    with pytest.raises(UserError, match=r"metrics.json does not follow from detections.json and truth.json; evaluate"):
        summed_up(tmp_path)


def test_a_row_s_name_with_a_slash_makes_one_folder(make: Make, tmp_path: Path) -> None:
    (make("control", 0, 0.5, 0, phase="control").parent / "row.json").unlink()
    assert summed_up(tmp_path, "reference=control/control")["reference"] == "control/control"
    assert [path.name for path in (tmp_path / "x").glob("summary*/summary.json")] == ["summary.json"]
    assert (tmp_path / "x/summary-test-to-control-control/summary.json").is_file()


def test_a_table_of_the_folder_above_is_refused(make: Make, tmp_path: Path) -> None:
    make("control", 0, 0.5, 0, phase="control")
    with pytest.raises(UserError, match=f"sweep={tmp_path}: no rows lambda there; give .*, such as {tmp_path}/x$"):
        summed_up(tmp_path, "rows=lambda", f"sweep={tmp_path}")


def test_rows_can_be_named_as_runs_and_come_in_the_order_of_their_sweep(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make("a", 0, 0.5, 2)
    (make("b", 0, 0.5, 1) / "weights.ckpt").unlink()
    make("c", 0, 0.5, 1)
    assert [run.folder.parent.parent.name for run in saved_runs(f"{tmp_path}/x/*/seed*/row.json")] == ["c", "a"]
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{tmp_path}/x/b/seed0/finetune is not trained to its end, and left out; the")


def test_a_table_takes_rows_that_another_sweep_has_trained(make: Make, tmp_path: Path) -> None:
    """``ohem`` has no_ohem and ohem, in this order, and here a row over values too; make's sweep is called lambda."""
    for seed in (2, 0, 1):
        make("ohem", seed, 0.5, 0)
        make("no_ohem", seed, 0.5, 1)
        make("espcn", seed, 0.5, 2)
        over = make("ohem_loss.lambda_pos-2", seed, 0.5, 3).parent / "row.json"
        over.write_text(json.dumps({"title": "2", "phase": "finetune", "sweeps": {"ohem": 0}}))
    rows = swept_rows(str(tmp_path / "x"), "ohem")
    assert [row.name for row in rows] == ["no_ohem", "ohem", "ohem_loss.lambda_pos-2"]
    assert [list(row.runs) for row in rows] == [[0, 1, 2]] * 3
    assert [row.name for row in swept_rows(str(tmp_path / "x"), "lambda")] == ["ohem", "no_ohem", "espcn"]


def test_images_are_the_same_for_all_rows_and_each_is_worked_out_once() -> None:
    """Also of another number of seeds; a resample has no number where one of its seeds has none."""
    truth, found = found_with(0.5, 0)
    calls: list[np.ndarray] = []

    class Counted(Resampled):
        def __call__(self, counts: np.ndarray) -> np.ndarray:
            calls.append(counts)
            return counts[:, :1].astype(float)

    bootstrap = Bootstrap(50, IMAGES, 0)
    scores = [Scores(np.zeros(1), remembered(Counted(truth, found, [1], ["rec_S"], (0.5, None)))) for _ in range(3)]
    for count in (1, 2, 3):
        bootstrap.interval(dict(enumerate(scores[:count])))
        bootstrap.interval({0: scores[0] - scores[count - 1]})
    assert len(calls) == 3 and all((one == calls[0]).all() for one in calls)
    partly = Scores(np.zeros(1), lambda images: np.where(images[:, :1] < IMAGES / 2, np.nan, 1.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        means = bootstrap.means({0: partly, 1: Scores(np.zeros(1), lambda images: np.ones((len(images), 1)))})
    lacking = np.isnan(means[1:, 0])
    assert 10 < lacking.sum() < 40 and (means[1:, 0][~lacking] == 0).all()


def test_one_image_cannot_be_resampled(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(found_with.__globals__, "IMAGES", 1)
    make("control", 0, 1.0, 0, phase="control")
    with pytest.raises(UserError, match="evaluated on one image, which cannot be resampled"):
        summed_up(tmp_path)


def test_seeds_of_known_spread_give_an_interval_that_covers() -> None:
    rng, held, count = np.random.default_rng(0), 0, 30
    for trial in range(200):
        fixed = rng.normal(0, 1, (count, 1))
        seeds = {
            seed: Scores(one, lambda images, one=one: np.tile(one, (len(images), 1))) for seed, one in enumerate(fixed)
        }
        _, limits = Bootstrap(400, 2, trial).interval(seeds)
        held += limits[0, 0] <= 0 <= limits[1, 0]
    assert 0.88 < held / 200 < 0.99


def test_an_interval_of_a_rate_ends_at_0_and_1(make: Make, tmp_path: Path) -> None:
    for number, (name, rate) in enumerate((("poor", 1 / IMAGES), ("good", 1 - 1 / IMAGES))):
        make(name, 0, rate, number)
    ends = []
    for seed in range(6):  # each lies a little elsewhere around the mean
        poor, good = (row["columns"]["rec_S"]["interval"] for row in summed_up(tmp_path, f"seed={seed}")["rows"])
        assert poor[0] < 0.005 < 1 / IMAGES < poor[1] < 0.2 and 0.8 < good[0] < 1 - 1 / IMAGES < 0.995 < good[1]
        ends += [poor[0], 1 - good[1]]
    assert min(ends) == 0


def test_the_figure_has_open_dots_where_a_row_is_inside_the_noise(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("control", 0, 0.5, 0, phase="control")
    make("same", 0, 0.5, 1)
    make("better", 0, 0.9, 2)
    drawn: list[Any] = []
    monkeypatch.setattr("efpn.evaluation.summary_files.save", lambda figure, path: drawn.append(figure))
    summed_up(tmp_path)
    (figure,) = drawn
    assert figure.get_suptitle() == "x on signs/test (○: not told apart from the control_row)"
    assert [dot.get_markerfacecolor() == "white" for dot in figure.axes[-1].lines] == [False, True, False]


def test_images_of_known_spread_give_an_interval_of_that_width() -> None:
    truth, found = found_with(0.5, 0)
    drawn = remembered(Resampled(truth, found, [1], ["rec_S"], (0.5, None)))
    mean, limits = Bootstrap(4000, IMAGES, 0).interval({0: Scores(np.array([0.5]), drawn)})
    assert mean == [0.5]
    assert np.diff(limits[:, 0])[0] == pytest.approx(2 * 1.96 * np.sqrt(0.25 / IMAGES), rel=0.06)


def test_the_share_of_the_bound_s_gain_over_seeds(make: Make, tmp_path: Path) -> None:
    """Recalls .25, .45 and .50: 80 % of the bound's gain in every seed; a bound that gains nothing has no share."""
    for seed, up in ((0, 0.0), (1, 0.25), (2, 0.1)):
        make("floor", seed, 0.25 + up, 0, phase="control_head")
        make("mine", seed, 0.45 + up, 1)
        make("bound", seed, 0.5 + up, 2, phase="oracle_head")
        make("idle", seed, 0.25 + up, 3, phase="doubled_head")
    make("late", 7, 0.9, 4)
    summed_up(tmp_path, "reference=floor", "columns=[AP_L,best_rec_S,rec_S]")  # two that nobody has
    rows = {row["name"]: row["shares"] for row in summed_up(tmp_path, "reference=floor")["rows"]}
    assert rows["floor"] == rows["late"] == {} and list(rows["mine"]) == ["the bound_row"]
    recall = rows["mine"]["the bound_row"]["rec_S"]
    low, high = recall["interval"]
    assert recall["share"] == pytest.approx(0.8) and 0.3 < low < 0.8 < high < 1.01
    text = (tmp_path / "x/summary-test-to-floor/summary.md").read_text()
    assert f"| the mine_row | the bound_row | 79 % [62, 93] | 80 % [{100 * low:.0f}, {100 * high:.0f}] |" in text
    for seed in (0, 1, 2):
        make("other_floor", seed, 0.3, 5, phase="control_head")  # which of the two is meant, nobody can say
    assert not any(row["shares"] for row in summed_up(tmp_path, "reference=floor")["rows"])
