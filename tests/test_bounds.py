"""The like-for-like bounds, half-oracles and the FPN of equal cost, end to end, at tiny scale."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import config, tiny
from omegaconf import DictConfig

from efpn.errors import UserError
from efpn.evaluation.cost import equal_cost_scales, seconds_per_image
from efpn.evaluation.detect import rebuild
from efpn.evaluation.rows import Row
from efpn.evaluation.run import evaluate
from efpn.evaluation.variants import find_variants
from efpn.models import Doubled, EFPNDetector
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.saved import latest_run, saved_runs
from efpn.training.run import train

pytestmark = pytest.mark.slow
BOUNDS = ("control_head", "doubled_head", "oracle_head")
QUICK = ("trainer.accelerator=cpu", "images=0", "figures=false", "choose_threshold=false")


@pytest.fixture(scope="module")
def bounded(trained: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with its bounds trained; its folder."""
    outputs = tmp_path_factory.mktemp("bounds")
    shutil.copytree(trained, outputs / "demo/seed0")
    for phase in BOUNDS:
        train(tiny(outputs, data, f"phase={phase}"))
    return outputs / "demo/seed0"


def evaluated(*overrides: str) -> tuple[DictConfig, list[Row]]:
    cfg = config("evaluate", *overrides, *QUICK)
    return cfg, evaluate(cfg, saved_runs(cfg.run))


def test_the_heads_of_the_bounds_alone_have_learned(bounded: Path) -> None:
    before = read_checkpoint(bounded / "baseline/weights.ckpt").state_dict
    for phase in BOUNDS:
        after = read_checkpoint(bounded / phase / "weights.ckpt").state_dict
        assert set(after) - set(before) == {key for key in after if key.startswith("roi_heads.small_head.")}
        assert all(torch.equal(after[key], before[key]) for key in before), phase
        head = {key: value for key, value in after.items() if key.startswith("roi_heads.small_head.0.")}
        assert any(not torch.equal(v, before[k.replace("small_head.0", "box_head")]) for k, v in head.items()), phase


def test_the_most_advanced_phase_stays_the_finetuned_one(bounded: Path) -> None:
    assert latest_run(str(bounded)).phase == "finetune"


def test_shares_of_the_gain_stand_below_the_comparison(bounded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, results = evaluated(f"run={bounded}", "split=val", "features=1")
    assert [result.phase for result in results] == ["baseline", *BOUNDS, "distill", "finetune"]
    text = (bounded / "comparison-val.md").read_text()
    assert "| share of the gain | of | AP_S | AP_S_any | AR_S | best_F1_S |" in text
    assert "(row - control head) / (bound - control head)" in text
    assert "share of the gain" in capsys.readouterr().out
    (drawn,) = json.loads((bounded / "report-val/features.json").read_text()).values()
    assert set(drawn) == {"P2, upsampled", "P2' demo/distill", "P2' demo/finetune"}  # a bound is its own target


@pytest.fixture
def timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are taken of one image, once."""
    monkeypatch.setattr("efpn.evaluation.cost.IMAGES", 1)
    monkeypatch.setattr("efpn.evaluation.cost.TURNS", 1)


@pytest.mark.usefixtures("timed_once")
def test_half_oracles_and_enlarged_images_are_rows(bounded: Path) -> None:
    _, results = evaluated(
        f"run=[{bounded}/baseline,{bounded}/finetune]",
        "split=val",
        "variant=[own,true_c2,true_p4,fpn_scaled]",
        "scale=[1,1.5]",
        "timed=true",
    )
    names = [result.name for result in results]
    rows = ["baseline", "baseline fpn_scaled-1x", "baseline fpn_scaled-1.5x"]
    assert names == [f"demo/{one}" for one in (*rows, "finetune", "finetune true_c2", "finetune true_p4")]
    metrics = [result.metrics for result in results]
    assert metrics[0] == pytest.approx(metrics[1], nan_ok=True, abs=1e-6)  # enlarged by nothing
    assert metrics[3] == pytest.approx(metrics[4], nan_ok=True, abs=1e-6)  # C2' of the 2x image is the true C2
    assert all(result.milliseconds and result.milliseconds > 0 for result in results)
    (table,) = bounded.glob("comparison-val-own+fpn_scaled-1x+*.md")
    assert "| at equal time | ms an image | AP_S |" in table.read_text()
    assert [result.phase for result in results] == ["baseline", None, None, "finetune", None, None]


def test_a_run_can_be_read_with_detail_of_another_source(bounded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    forward = EFPNDetector.forward

    def note(self: EFPNDetector, images: object, targets: object = None, images_2x: object = None) -> object:
        seen.append((type(self.backbone.detail).__name__, images_2x is not None))
        return forward(self, images, targets, images_2x)  # type: ignore[arg-type]

    monkeypatch.setattr(EFPNDetector, "forward", note)
    evaluated(f"run={bounded}/finetune", "split=val")
    evaluated(f"run={bounded}/finetune", "split=val", "detail=doubled")
    assert set(seen) == {("Image2x", True), ("Doubled", False)}
    record = json.loads((bounded / "finetune/eval/val-doubled/metrics.json").read_text())
    assert record["more"]["detail of P2'"] == Doubled.__name__
    evaluated(f"run={bounded}/distill", "split=val", "variant=on_p3_ext", "detail=doubled")
    record = json.loads((bounded / "distill/eval/val-on_p3_ext-doubled/metrics.json").read_text())
    assert record["more"]["detail of P2'"] == Doubled.__name__


def test_the_scale_of_equal_cost_is_where_the_enlarged_fpn_takes_as_long(
    bounded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [0.35, 0.1, 0.2, 0.3, 0.4, 0.5]  # of EFPN, and of the FPN at 1, 1.2, 1.4, 1.7 and 2 times
    monkeypatch.setattr("efpn.evaluation.cost.seconds_per_image", lambda *given: taken)
    cfg = config("evaluate", f"run={bounded}", "split=val", "variant=fpn_scaled", f"cost_of={bounded}/finetune", *QUICK)
    (scale,) = equal_cost_scales(cfg, saved_runs(cfg.run))
    assert scale == 1.55
    cfg.run = str(bounded / "finetune")
    with pytest.raises(UserError, match=r"cost_of=.*needs a phase without an extension"):
        equal_cost_scales(cfg, saved_runs(cfg.run))


@pytest.mark.usefixtures("timed_once")
def test_what_is_timed_is_what_is_scored(bounded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def note(*given: object) -> EFPNDetector:
        timed.append(rebuild(*given))  # type: ignore[arg-type]
        return timed[-1]

    monkeypatch.setattr("efpn.evaluation.cost.rebuild", note)
    cfg = config("evaluate", f"run={bounded}", "split=val", "small_roi_below=20", *QUICK)
    runs = {run.phase: run for run in saved_runs(cfg.run)}
    own, oracle = find_variants(["own", "oracle"], [1.0])
    seconds_per_image(cfg, [(runs["finetune"], own), (runs["baseline"], oracle)])
    assert [(one.small.level, one.small.below) for one in timed] == [("p2_ext", 20), ("p2_ext", 20)]


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["scale=[3]"], r"scale=\[3\]: must be a list of one or more, each a number greater than 0, up to 2"),
        (["timed=true", "trainer.devices=2"], "measured on one device; give trainer.devices=1"),
        (["cost_of=FINETUNE"], "is the cost of variant=fpn_scaled; name that too"),
        (["variant=fpn_scaled", "cost_of=/nowhere"], "^cost_of=/nowhere: no such file or folder"),
        (["variant=true_c2", "run=BASELINE"], "needs a phase with an extension that learns"),
        (["variant=fpn_scaled", "run=FINETUNE"], "needs a phase without an extension"),
    ],
)
def test_what_does_not_fit_is_named(overrides: list[str], message: str, bounded: Path) -> None:
    words = [
        word.replace("BASELINE", f"{bounded}/baseline").replace("FINETUNE", f"{bounded}/finetune") for word in overrides
    ]
    if not any(word.startswith("run=") for word in words):
        words.append(f"run={bounded}/baseline")
    with pytest.raises(UserError, match=message):
        evaluated(*words, "split=val")
