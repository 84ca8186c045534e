"""Every shipped config composes and instantiates; phases and experiments own what they own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import ROOT, config
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.models import EFPNDetector, Tiles
from efpn.ranges import TRAIN, check_values
from efpn.runs.phases import model_config, phase_names, phase_run
from efpn.training.run import train
from efpn.words import check_detector_reads

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))
SWEEPS, ROWS = (sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml")) for group in ("sweep", "row"))
PHASES = sorted(path.stem for path in (ROOT / "conf" / "phases").glob("*.yaml"))


def test_there_is_something_to_compose() -> None:
    assert {"demo", "tt100k_fpn", "tt100k_efpn", "coco_fpn", "coco_efpn", "mosaic_efpn", "carla_efpn"} <= set(
        EXPERIMENTS
    )
    assert {"baseline", "control", "control_head", "oracle_head", "distill", "finetune"} <= set(PHASES)


WITH_P2_EXT = {"distill", "finetune", "doubled_head", "oracle_head"}
WITH_NEW_HEAD = {"finetune", "control_head", "doubled_head", "oracle_head"}


def blank(cfg: DictConfig, phase: str) -> EFPNDetector:
    """The detector of a phase: shapes without the arithmetic."""
    with torch.device("meta"):
        return instantiate(model_config(cfg, phase), num_classes=5, backbone={"weights": None}, _convert_="all")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_phase_of_every_experiment_instantiates(experiment: str) -> None:
    cfg = config("train", f"experiment={experiment}")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for phase in PHASES:
        detector = blank(cfg, phase)
        task = instantiate(cfg.phases[phase].task, detector=detector, _convert_="all")
        assert (detector.backbone.extension is not None) == (phase in WITH_P2_EXT)
        assert (detector.roi_heads.small_head is not None) == (phase in WITH_NEW_HEAD)
        assert (detector.roi_heads.ohem is not None) == (phase in WITH_NEW_HEAD)
        assert any(p.requires_grad for p in task.parameters())
        optimizers = task.configure_optimizers()
        assert optimizers["lr_scheduler"]["scheduler"].get_last_lr()[0] > 0
    instantiate(cfg.data.train_transform, _convert_="all")
    instantiate(cfg.data.eval_transform, _convert_="all")


def test_a_phase_changes_a_key_of_the_common_model_and_leaves_its_neighbours() -> None:
    words = ("tiles.grid=2", "rpn.score_thresh=0.1", "backbone.weights=FILE")
    own = [f"+phases.finetune.model.{word}" for word in words]
    plain, changed = (config("train", "experiment=demo", "model.tiles.dense_from=0.5", *more) for more in ((), own))
    assert blank(changed, "finetune").backbone.tiles == Tiles(grid=2, dense_from=0.5)
    before, after = (model_config(cfg, "finetune").rpn for cfg in (plain, changed))
    assert {**before, "score_thresh": 0.1} == after
    assert {**plain.backbone, "weights": "FILE"} == model_config(changed, "finetune").backbone
    assert changed.backbone == plain.backbone == model_config(changed, "distill").backbone
    assert model_config(changed, "distill").rpn == before  # not of this phase


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("extension.last_stage=3", r"finetune\.model\.extension\.last_stage: .* give extension\.last_stage=VALUE"),
        ("extenson.last_stage=3", r"phases\.finetune\.model\.extenson: efpn\.models\.build_faster_rcnn takes no such"),
        ("tiles.sise=8", r"phases\.finetune\.model\.tiles\.sise: .* it takes grid, dense_from"),
        ("roi.head_widht=3", r"phases\.finetune\.model\.roi\.head_widht: .*it takes .*head_width"),
    ],
)
def test_what_no_class_of_a_phases_model_takes_is_named_whatever_phase_is_run(word: str, told: str) -> None:
    cfg = config("train", "experiment=demo", "phase=baseline", f"++phases.finetune.model.{word}")
    with pytest.raises(UserError, match=told):
        train(cfg)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("+phases.finetun.model.tiles.grid=3", r"phases\.finetun: no phase, .* \(did you mean phases\.finetune\?\)"),
        ("+phases.finetun.task.trainable=[a]", r"phases\.finetun: no phase, .* \(did you mean phases\.finetune\?\)"),
        ("phases.oracle_head=5", r"phases\.oracle_head=5: a phase is a group"),
        ("phases.finetune.model=null", r"phases\.finetune\.model=None: is a group"),
    ],
)
def test_what_is_no_phase_is_named_whatever_phase_is_run(word: str, told: str) -> None:
    cfg = config("train", "experiment=demo", "phase=baseline", word)
    with pytest.raises(UserError, match=told):
        phase_names(cfg)


def test_what_a_phase_leaves_must_fit_the_next_before_anything_trains(tmp_path: Path) -> None:
    words = (f"paths.outputs={tmp_path}", "+phases.finetune.model.roi.head_width=512")
    with pytest.raises(UserError, match=r"what phase=distill leaves for finetune does not fit: .* of another shape"):
        train(config("train", "experiment=demo", *words))
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_phase_changes_nothing_that_the_detector_does_not_read() -> None:
    words = ("detector=fcos", "+phases.finetune.model.roi.head_width=512")
    assert "roi" not in model_config(config("train", "experiment=mosaic_efpn", *words), "finetune")


def test_a_class_of_a_phases_own_brings_none_of_the_common_ones_keys() -> None:
    cfg = config("train", "experiment=demo", "+phases.finetune.model.tiles={_target_: efpn.models.Tiles, grid: 3}")
    assert dict(model_config(cfg, "finetune").tiles) == {"_target_": "efpn.models.Tiles", "grid": 3}


def test_a_row_that_the_detector_does_not_read_is_refused() -> None:
    words = ["experiment=demo", "detector=fcos", "+row=no_ohem"]
    with pytest.raises(UserError, match=r"^\+row=no_ohem \(mining\): read by detector=faster_rcnn, not by"):
        check_detector_reads(config("train", *words), words)
    words[-1] = "+row=[control_head,no_ohem]"
    with pytest.raises(UserError, match=r"^\+row=no_ohem \(mining\): read by"):
        check_detector_reads(config("train", *words), words)
    for row in ("ohem", "ftt", "undistilled", "control_head"):
        words = ["experiment=demo", "detector=fcos", f"+row={row}"]
        check_detector_reads(config("train", *words), words)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "fcos"])
def test_every_phase_of_a_one_stage_detector_instantiates(kind: str) -> None:
    cfg = config("train", "experiment=mosaic_efpn", f"detector={kind}")
    OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    for phase in PHASES:
        detector = blank(cfg, phase)
        task = instantiate(cfg.phases[phase].task, detector=detector, _convert_="all")
        trained = {name.split(".")[0] for name, one in task.detector.named_parameters() if one.requires_grad}
        assert ("small_head" in trained) == (phase in WITH_NEW_HEAD)
        assert detector.level_names[0] == ("p2_ext" if phase in WITH_P2_EXT else "p2")


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "faster_rcnn"])
def test_what_is_typed_and_not_read_by_the_detector_is_refused_and_nothing_else(kind: str) -> None:
    read = [
        *("model.channels=64", "small_roi_below=48", "extension=ftt", "ftt_width=32", "detail=stem", "seed=1"),
        *("model.roi.score_thresh=0.1", "loss.lambda_pos=2", "data.batch_size=2", "phases.finetune.max_steps=4"),
        *("model.rpn.anchor_sizes=[4,8,16,32,64]", "model.roi.nms_thresh=0.6", "model.tiles=null"),
        *("mining=null", "phases.finetune.model.small.below=20", "phases.finetune.model.small.own_head=false"),
    ]
    unread = {
        "faster_rcnn": [],
        "retinanet": ["small_roi_below", "model.tiles", "mining", "phases.finetune.model.small.below"],
        "fcos": [
            *("small_roi_below", "model.rpn.anchor_sizes", "model.roi.nms_thresh", "model.tiles", "mining"),
            "phases.finetune.model.small.below",
        ],
    }[kind]
    words = ["experiment=own", "data.root=/none", f"detector={kind}", *read]
    cfg = config("train", *words)
    if not unread:
        return check_detector_reads(cfg, words)
    with pytest.raises(UserError, match=re.escape(f"{', '.join(unread)}: read by detector=faster_rcnn, not by")):
        check_detector_reads(cfg, words)
    return check_detector_reads(cfg, [word for word in words if word.split("=")[0] not in unread])


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_has_a_quick_form_apart_from_its_runs(experiment: str) -> None:
    whole = config("train", f"experiment={experiment}", "name=mine")
    cfg = config("train", f"experiment={experiment}", "name=mine", "+quick=yes")
    assert cfg.paths.run == "outputs/quick/mine/seed0" != whole.paths.run
    assert {phase.max_steps for phase in cfg.phases.values()} == {4}
    size = cfg.data.train_transform
    assert size.short_side <= whole.data.train_transform.short_side and size.crop == 128
    check_values(cfg, TRAIN)


def test_a_timm_backbone_composes() -> None:
    pytest.importorskip("timm")
    cfg = config("train", "experiment=mosaic_efpn", "backbone=timm", "backbone.name=convnext_atto")
    assert [level.channels for level in blank(cfg, "finetune").backbone.body.levels] == [40, 80, 160, 320]


GROUPS = ("backbone", "detector", "extension", "detail", "loss", "trainer", "logger", "callbacks", "data")


@pytest.mark.slow
@pytest.mark.parametrize("group", GROUPS)
def test_every_option_of_every_group_composes(group: str) -> None:
    for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
        cfg = config("train", f"{group}={path.stem}")
        OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.slow
@pytest.mark.parametrize("upsampler", ["ftt", "espcn", "nearest", "second_pass"])
@pytest.mark.parametrize("experiment", ["demo", "mosaic_efpn", "tt100k_efpn"])
def test_every_extension_instantiates(experiment: str, upsampler: str) -> None:
    cfg = config("train", f"experiment={experiment}", f"extension={upsampler}")
    extension = blank(cfg, "distill").backbone.extension
    named = "second_pass" if extension.last_stage > 2 else type(extension.upsampler).__name__.lower()
    assert named == upsampler


@pytest.mark.parametrize("experiment", [name for name in EXPERIMENTS if not name.endswith("_fpn")])
def test_ftt_is_no_wider_than_the_pyramid_and_the_papers_as_wide(experiment: str) -> None:
    widths = {}
    for extension in ("ftt", "ftt_paper"):
        cfg = config("train", f"experiment={experiment}", f"extension={extension}")
        widths[extension] = cfg.extension.upsampler.width
    assert widths["ftt"] == cfg.ftt_width <= widths["ftt_paper"] == cfg.model.channels


def keys(node: dict, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in node.items():
        found |= keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}"}
    return found


SCHEDULE = {"reference_batch", "max_steps", "checkpoint_every", "val_every"}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_an_experiment_sets_only_numbers_of_a_phase(experiment: str) -> None:
    node = yaml.safe_load((ROOT / "conf" / "experiment" / f"{experiment}.yaml").read_text())
    for key in keys(node.get("phases", {})):
        inside = key.split(".", 1)[1]
        allowed = inside in SCHEDULE or inside.startswith(("task.optimizer.", "task.schedule.", "data."))
        assert allowed or inside == "task.trainable", f"{experiment}: phases.{key} belongs to the phase"


def test_a_phase_sets_nothing_outside_itself() -> None:
    for path in (ROOT / "conf" / "phases").glob("*.yaml"):
        assert "@package" not in path.read_text()


def test_the_papers_settings_for_tt100k() -> None:
    cfg = config("train", "experiment=tt100k_efpn", "phase=distill")
    assert (cfg.data.train_transform.short_side, cfg.small_roi_below, cfg.loss.lambda_pos) == (1400, 56, 1.0)
    assert cfg.phases.distill.model.extension.upsampler.blocks == 2 and cfg.backbone.arch == "resnet50"
    assert cfg.data.balance == 1000 and phase_names(cfg) == ["distill"]
    assert cfg.data.train_transform.repeat_crop == 700 and cfg.data.train_transform.augment.color.hue > 0
    assert cfg.phases.distill.task.loss.on_p3_ext and cfg.phases.finetune.task.trainable == ["*small_head.*"]


def test_the_papers_settings_for_coco() -> None:
    cfg = config("train", "experiment=coco_efpn", "phase=distill")
    size = cfg.data.train_transform
    assert (size.short_side, size.max_size, cfg.small_roi_below, cfg.loss.lambda_pos) == (800, 1333, 112, 1.0)
    assert cfg.data.keep_empty is False and cfg.model.roi.canonical_size == 224
    assert cfg.phases.distill.model.extension.upsampler.blocks == 2


def test_the_control_takes_as_many_steps_as_finetuning() -> None:
    cfg = config("train", "experiment=mosaic_efpn", "phases.finetune.max_steps=7")
    assert cfg.phases.control.max_steps == 7 and cfg.phases.control.task.schedule.max_steps == 7


def test_a_run_is_named_by_what_makes_it_this_run() -> None:
    one = config("train", "experiment=demo")
    free = ["paths.outputs=elsewhere", "trainer.devices=2", "resume=true", "extension.margin=null"]
    moved = config("train", "experiment=demo", *free)
    other = config("train", "experiment=demo", "loss.lambda_pos=2")
    hashes = [phase_run(cfg, "distill").config_hash() for cfg in (one, moved, other)]
    assert hashes[0] == hashes[1] != hashes[2]
    assert phase_run(moved, "distill").folder == Path("elsewhere/demo/seed0/distill")


@pytest.mark.parametrize("sweep", SWEEPS)
def test_every_sweep_has_rows_a_table_and_no_more(sweep: str) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        swept = compose("train", [f"+sweep={sweep}"], return_hydra_config=True).hydra.sweeper.params
    rows = str(swept.get("+row", "")).split(",") if "+row" in swept else []
    assert set(rows) <= set(ROWS) and len(swept) == 1
    assert rows or OmegaConf.select(config("train", "experiment=demo"), next(iter(swept))) is not None
    assert config("summarise", "sweep=x", f"table={sweep}").rows == sweep


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_of_a_sweep_and_builds_in_both_kinds_of_experiments(row: str) -> None:
    lists = [(ROOT / f"conf/sweep/{sweep}.yaml").read_text().split("+row: ")[-1].splitlines()[0] for sweep in SWEEPS]
    assert any(row in rows.split(",") for rows in lists)
    for experiment in ("tt100k_efpn", "own"):
        cfg = config("train", f"experiment={experiment}", f"+row={row}")
        assert phase_names(cfg)[0] == "baseline" and cfg.title
        extended = {"undistilled", "global_p2", "fbb_p2", "espcn", "nearest", "ftt", "second_pass", "oracle_head"}
        extended |= {"ohem", "no_ohem"}
        detector = blank(cfg, phase_names(cfg)[-1])
        assert (detector.backbone.extension is not None) == (row in extended)
        if phase_names(cfg)[-1] == "finetune":
            assert (detector.roi_heads.ohem is None) == (row == "no_ohem")


@pytest.mark.slow
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_can_be_a_sweeps(experiment: str) -> None:
    for row, phases in (("espcn", ["baseline", "distill", "finetune"]), ("control_head", ["baseline", "control_head"])):
        cfg = config("train", f"experiment={experiment}", f"+row={row}")
        assert phase_names(cfg) == phases  # those of plain FPNs too, which are of one phase otherwise
        assert cfg.name == experiment and cfg.loss.on_p3_ext


def test_the_rows_of_the_paper_are_its_own_whatever_the_experiment() -> None:
    for experiment in ("tt100k_efpn", "own"):
        rows = {
            row: config("train", f"experiment={experiment}", f"+row={row}") for row in ("undistilled", "ftt", "fbb_p2")
        }
        assert {str(cfg.detail._target_) for cfg in rows.values()} == {"efpn.models.Stem"}
        assert rows["undistilled"].phases.finetune.init_from == "baseline"
        assert rows["ftt"].extension.upsampler._target_ == "efpn.models.FTT"
        assert rows["fbb_p2"].phases.distill.task.loss.on_p3_ext is False
    best = config("train", "experiment=tt100k_efpn", "+row=second_pass").phases.finetune
    paper = config("train", "experiment=tt100k_efpn", "+row=ftt").phases.finetune
    assert best.task.trainable == paper.task.trainable == ["*small_head.*"]  # what trains is one for all rows
    best.task.trainable.append("backbone.extension.*")
    assert best == config("train", "experiment=tt100k_efpn_2x").phases.finetune
