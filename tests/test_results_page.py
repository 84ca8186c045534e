"""RESULTS.md says what the result files say, and a sentence that they do not bear out stops it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT


@pytest.fixture(scope="module")
def results() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results", ROOT / "docs" / "results.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("docs", "results", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_page_is_up_to_date(results: ModuleType) -> None:
    assert (ROOT / "RESULTS.md").read_text() == results.written(), "python docs/results.py"


def test_the_readme_shows_what_the_page_begins_with(results: ModuleType) -> None:
    page, readme = (ROOT / "RESULTS.md").read_text(), (ROOT / "README.md").read_text()
    assert results.with_glance(readme, page) == readme, "python docs/results.py"
    start, end = (readme.index(mark) for mark in results.MARKS)
    assert "share of the oracle's" in readme[start:end] and "A plain FPN" in readme[start:end]
    stale = readme[:start] + readme[start:end].replace("+", "-") + readme[end:]
    assert stale != readme == results.with_glance(stale, page)


def test_a_number_changes_with_its_file(results: ModuleType, copy: Path) -> None:
    before = results.written(copy)
    path = copy / "results/demo/seed0/finetune/test.json"
    record = json.loads(path.read_text())
    record["metrics"]["AP_M"] += 0.01
    path.write_text(json.dumps(record))
    assert results.written(copy) != before


def test_a_sentence_that_the_numbers_contradict_is_refused(results: ModuleType, copy: Path) -> None:
    path = copy / "results/demo/seed0/finetune/test.json"
    record = json.loads(path.read_text())
    record["metrics"]["AP_S"] = 0.1
    path.write_text(json.dumps(record))
    with pytest.raises(results.Contradicted, match="has -2[0-9.]* points of AP_S"):
        results.written(copy)


def test_every_result_file_names_its_source() -> None:
    for path in (ROOT / "results").rglob("*.json"):
        record = json.loads(path.read_text())
        assert record["rows"] if "rows" in record else record["metrics"] and record["seed"] is not None, path
        by_training = path.name == "trained-val.json"  # which writes no command
        assert by_training or (record["commit"] and record["command"]), path


def test_a_section_names_each_of_its_files_once(results: ModuleType) -> None:
    for section in results.written().split("<summary>Where these numbers come from</summary>")[1:]:
        named = re.findall(r"^- \[(.+?)\]\(results/", section.partition("</details>")[0], re.MULTILINE)
        assert named and len(named) == len(set(named))


def test_what_is_left_at_equal_time_by_hand(results: ModuleType, tmp_path: Path) -> None:
    """EFPN at 15 ms, between an FPN of 10 and of 20; another seed's at 30, where the line ends at 20."""
    for seed, times, values in ((0, (10, 20, 15), (0.1, 0.3, 0.4)), (1, (10, 20, 30), (0.2, 0.3, 0.4))):
        for row, time, value in zip(("fpn", "fpn-2x", "efpn"), times, values, strict=True):
            path = tmp_path / f"results/set/seed{seed}/{row}/test.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"seconds_per_image": time / 1000, "metrics": {"AP_S": value}}))
    rows = [{"title": title, "seeds": [0, 1]} for title in ("fpn/control", "fpn-2x/control", "efpn/finetune")]
    (tmp_path / "results/set/summary-test.json").write_text(json.dumps({"rows": rows}))
    page, plain = results.Page(tmp_path), ["fpn/control", "fpn-2x/control"]
    found = page.at_equal_time("set", "efpn/finetune", plain, ["AP_S"])
    assert found["AP_S"] == pytest.approx((0.15, 0.3 / 0.5))  # 0.2 and 0.1 more, of gains of 0.3 and 0.2
    with pytest.raises(ValueError, match="set/seed0: .* are not in order of their time"):
        page.at_equal_time("set", "efpn/finetune", plain[::-1], ["AP_S"])


def test_the_lead_at_equal_time_stands_with_its_share(results: ModuleType, tmp_path: Path) -> None:
    one = {"AP_S": results.AtTime(0.021, 0.24), "AP_M": results.AtTime(-0.005, -0.3)}
    table = results.Page(tmp_path).rivals({"a set": ("1.7x", one)}, ["AP_S", "AR_S", "AP_M"]).splitlines()
    assert table[2] == "| a set | 1.7x | +2.1 (24%) |  | -0.5 |"
