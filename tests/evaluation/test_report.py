from __future__ import annotations

import json
import subprocess

import numpy as np
from PIL import Image

from efpn.evaluation.report import write_row
from efpn.figures.sheet import outcome_sheet
from efpn.metrics.score import score
from efpn.provenance import command_line, git_commit, hardware

# By hand. Class pl40 has two objects and detections at 0.9 (IoU 19/21 = 0.905: a hit at nine of ten thresholds), at 0.8
# (false) and at 0.2 (exact). At those nine, precision is 1 at 51 recall points and 2/3 at 50; at 0.95 it is 1/3 at 51.
# So its AP50 is (51 + 50 * 2/3) / 101 = 0.835, its AP (9 * 0.835 + 17/101) / 10 = 0.768, its AR (9 + 0.5) / 10.
# Class pn has nothing right: all are halved.
GOLDEN_TABLE = """\
# EFPN on toy/test

3 images, 4 detections, 2 evaluated classes.

| AP | AP50 | AP75 | AR |
| --- | ---: | ---: | ---: |
| 0.384 | 0.417 | 0.417 | 0.475 |

## COCO AP and AR by size

IoU 0.50:0.95, at most 300 detections per image and class. Size: square root of the box's area, native pixels.

| size | objects | AP | AR |
| --- | ---: | ---: | ---: |
| all | 3 | 0.384 | 0.475 |
| small [0, 32] | 1 | 0.900 | 0.900 |
| medium [32, 96] | 1 | 0.000 | 0.000 |
| large >= 96 | 1 | 1.000 | 1.000 |

## TT100K accuracy, recall and F1 by size

IoU > 0.5. Size: longer side of the box, native pixels. Threshold: 0.50, fixed.

| size | objects | accuracy, score >= 0.50 | recall, score >= 0.50 | F1, score >= 0.50 |
| --- | ---: | ---: | ---: | ---: |
| all [0, 400) | 3 | 0.333 | 0.333 | 0.333 |
| small [0, 32) | 1 | 0.500 | 1.000 | 0.667 |
| medium [32, 96) | 1 | 0.000 | 0.000 | 0.000 |
| large [96, 400) | 1 | n/a | 0.000 | 0.000 |

## Where this comes from

- command: `python evaluate.py run=x`
- commit: abc123
- seed: 3
- wall time: 12 s
- hardware: 2 CPU cores
- phase: finetune
"""


def table_of(folder):
    return (folder / "table.md").read_text()


def record_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_table_to_the_letter(tmp_path, evaluation):
    write_row(evaluation(evaluated=[9, 4]))
    assert table_of(tmp_path) == GOLDEN_TABLE


def test_files_hold_what_was_scored(tmp_path, evaluation, metrics, detections, ground_truth):
    out = tmp_path / "eval"
    drawn = write_row(evaluation(folder=out), images=12, tt100k=True)
    tables = ["images.png", "losses.json", "losses.md", "metrics.json", "table.md", "truth.json"]
    assert sorted(path.name for path in out.iterdir()) == ["detections.json", "detections_tt100k.json", *tables]
    assert json.loads((out / "truth.json").read_text()) == {**ground_truth, "evaluated": [4, 9]}
    record = record_of(out)
    assert record["metrics"] == metrics
    assert record["rules"] == {
        "ap_size_rule": "area",
        "ap_edges": "closed",
        "ap_bands": {"all": [0, None], "small": [0, 32], "medium": [32, 96], "large": [96, None]},
        "ap_max_dets": 300,
        "f1_size_rule": "long_side",
        "f1_bins": {"all": [0, 400], "small": [0, 32], "medium": [32, 96], "large": [96, 400]},
        "f1_iou": 0.5,
    }
    assert (record["split"], record["seed"], record["commit"], record["seconds"]) == ("toy/test", 3, "abc123", 12.25)
    saved = json.loads((out / "detections.json").read_text())
    assert saved == detections
    assert score(ground_truth, saved, score_threshold=0.5, category_ids=[4, 9]) == metrics
    assert drawn == {"EFPN/images": out / "images.png"}
    assert Image.open(drawn["EFPN/images"]).size[0] > 800
    write_row(evaluation(folder=out))
    assert not (out / "images.png").exists()  # of other numbers


def test_a_record_in_memory_is_what_its_file_says(tmp_path, evaluation):
    one = evaluation(best_threshold=0.1, best_chosen_on="toy/val")
    write_row(one)
    assert record_of(tmp_path) == one.record


def test_the_rule_by_which_sizes_were_measured_stands_in_the_table(tmp_path, evaluation, ground_truth):
    ground_truth["annotations"][2]["area"] = 700  # large by its box
    write_row(evaluation(evaluated=[4, 9, 7]))
    record = record_of(tmp_path)
    assert record["rules"]["ap_size_rule"] == "annotation"
    assert (record["objects"]["ap"]["large"], record["objects"]["f1"]["large"]) == (0, 1)
    table = table_of(tmp_path)
    assert "Size: square root of the annotation's own area, of the box's where it gives none, native pixels." in table
    assert "Size: longer side of the box, native pixels." in table


def test_both_thresholds_stand_in_the_table(tmp_path, evaluation, ground_truth, detections):
    write_row(evaluation(best_threshold=0.1, best_chosen_on="toy/val"))
    table = table_of(tmp_path)
    assert "Thresholds: 0.50, fixed; 0.10, best F1 on toy/val." in table
    assert "| large [96, 400) | 1 | n/a | 0.000 | 0.000 | 1.000 | 1.000 | 1.000 |" in table
    record = record_of(tmp_path)
    assert record["thresholds"] == {"fixed": 0.5, "best_f1": 0.1, "best_f1_chosen_on": "toy/val"}
    at_best = score(ground_truth, detections, score_threshold=0.1, category_ids=[4, 9])
    assert record["metrics_at_best_f1"] == at_best and at_best["F1_L"] == 1.0


def test_objects_are_counted_by_the_rule_of_their_table(tmp_path, evaluation, ground_truth):
    """32 x 32: COCOeval puts it into small and medium, the TT100K bins into medium only."""
    ground_truth["annotations"][0] |= {"bbox": [10, 10, 32, 32], "area": 1024}
    write_row(evaluation())
    assert record_of(tmp_path)["objects"] == {
        "ap": {"all": 3, "small": 1, "medium": 2, "large": 1},
        "f1": {"all": 3, "small": 0, "medium": 2, "large": 1},
    }


def test_nothing_detected_and_nothing_to_detect(tmp_path, evaluation, ground_truth):
    drawn = write_row(evaluation(truth={**ground_truth, "annotations": []}, detections=[]), images=12)
    table = table_of(tmp_path)
    assert "| n/a | n/a | n/a | n/a |" in table
    assert "-1" not in table
    assert "NaN" not in (tmp_path / "metrics.json").read_text()
    assert drawn["EFPN/images"].is_file()


def test_what_was_not_recorded_is_said(tmp_path, evaluation, facts):
    write_row(evaluation(facts=facts | {"commit": None, "seconds": None, "command": None}))
    assert table_of(tmp_path).count("not recorded") == 3
    write_row(evaluation(facts=dict.fromkeys(facts) | {"more": {}}))
    assert table_of(tmp_path).count("not recorded") == 5


def test_sheet_shows_the_worst_images_first(evaluation):
    titles = [page.texts[0].get_text() for page in outcome_sheet(evaluation()).subfigs[1:]]
    assert titles == [
        "1: 1 missed, 1 false alarm, 1 hit",
        "2: 1 missed, 0 false alarms, 0 hits",
        "3: 0 missed, 1 false alarm, 0 hits",
    ]


def test_sheet_stops_at_the_asked_number_and_loads_no_more(evaluation):
    asked = []

    def load(image_id):
        asked.append(image_id)
        return np.zeros((50, 50, 3), np.uint8)

    sheet = outcome_sheet(evaluation(load_image=load), images=1)
    assert (len(sheet.subfigs), asked) == (2, [1])


def test_sheet_leaves_out_crowds_and_classes_that_are_not_evaluated(evaluation, ground_truth):
    ground_truth["annotations"][1]["iscrowd"] = 1
    sheet = outcome_sheet(evaluation(evaluated=[9]))
    assert sorted(page.texts[0].get_text()[:11] for page in sheet.subfigs[1:]) == [
        f"{i}: 0 missed"[:11] for i in (1, 2, 3)
    ]


def test_no_images_no_sheet(evaluation, ground_truth):
    assert outcome_sheet(evaluation(truth={**ground_truth, "images": [], "annotations": []}, detections=[])) is None


def test_command_line_can_be_pasted(monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate.py", "run=my runs/a"])
    assert command_line() == "python evaluate.py 'run=my runs/a'"


def test_commit_says_when_files_differ_from_it(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    assert git_commit(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "first", "--no-verify")
    clean = git_commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{clean}-dirty"


def test_hardware_names_cores():
    assert "CPU core" in hardware()
