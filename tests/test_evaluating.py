"""Evaluating finished phases, end to end, at tiny scale."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import config
from omegaconf import OmegaConf

from efpn.errors import UserError
from efpn.evaluation.detect import eval_data
from efpn.evaluation.rows import load_rows
from efpn.evaluation.run import evaluate
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.rebuild import rebuild_detector
from efpn.runs.saved import latest_run, saved_runs

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("precision", ["trained", "mixed"])
def test_training_and_evaluation_agree_on_the_validation_split(
    precision: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run = request.getfixturevalue(precision)
    logged = json.loads((run / "baseline/metrics.json").read_text())["metrics"]
    ids, before = json.loads((run.parents[1] / "validated.json").read_text())[0]
    quick = ["split=val", "trainer.accelerator=cpu", "figures=false", "images=0", f"out={tmp_path}"]
    results = evaluate(config("evaluate", f"run={run / 'baseline'}", *quick), saved_runs(str(run / "baseline")))
    after = json.loads((tmp_path / "detections.json").read_text())
    assert len(ids) == 5 and len(before) == len(after) > 0
    for one, other in zip(before, after, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert [*one["bbox"], one["score"]] == pytest.approx([*other["bbox"], other["score"]], abs=1e-4)
    for name, value in results[0].metrics.items():
        assert logged.get(f"val/{name}") == (None if value is None else pytest.approx(value, abs=1e-6)), name


@pytest.mark.parametrize("variants", [["own"], ["oracle", "fpn_2x"]], ids=str)
def test_evaluation_writes_its_report(trained: Path, variants: list[str]) -> None:
    chosen = f"variant=[{','.join(variants)}]"
    cfg = config("evaluate", f"run={trained / 'baseline'}", chosen, "trainer.accelerator=cpu", "images=2")
    evaluate(cfg, saved_runs(cfg.run))
    marks = ["" if variant == "own" else f"-{variant}" for variant in variants]
    for out in (trained / f"baseline/eval/test{mark}" for mark in marks):
        assert {p.name for p in out.iterdir()} >= {"metrics.json", "table.md", "detections.json", "images.png"}
        losses = json.loads((out / "losses.json").read_text())
        assert losses["by_band"]["all"]["rpn_recall"]["100"] is not None  # proposals were recorded
        record = json.loads((out / "metrics.json").read_text())
        assert record["metrics"].keys() >= {"AP", "AP50", "AP75", "AP_S", "AR_S", "F1_S"}
    together = "" if variants == ["own"] else f"-{'+'.join(variants)}"
    assert (trained / f"report-test{together}" / "report.html").is_file()


def test_the_oracle_stands_beside_the_baseline_that_it_bounds(trained: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = [f"run={trained / 'baseline'}", "trainer.accelerator=cpu", "images=0", "figures=false"]
    for variant in ("own", "oracle"):
        cfg = config("evaluate", *place, "split=val", f"variant={variant}")
        results = evaluate(cfg, saved_runs(cfg.run))
    assert [result.name for result in results] == ["demo/baseline", "demo/baseline oracle"]
    assert "demo/baseline oracle" in (trained / "comparison-val-oracle.md").read_text()
    cfg = config("evaluate", *place, "split=val", "variant=oracle", "score_threshold=0.3")
    assert [result.name for result in evaluate(cfg, saved_runs(cfg.run))] == ["demo/baseline oracle"]
    assert "baseline/eval/val/metrics.json is left out, measured otherwise: threshold differ" in caplog.text


def test_runs_of_a_sweep_compare_in_one_call(trained: Path, tmp_path: Path) -> None:
    for value in ("0.5", "1.5"):
        shutil.copytree(trained / "distill", tmp_path / f"demo/loss.lambda_pos-{value}/seed0/distill")
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")
    where = f"run=[{tmp_path}/demo/seed0, '{tmp_path}/demo/loss*/seed0']"
    cfg = config(
        "evaluate",
        where,
        "split=val",
        "trainer.accelerator=cpu",
        "images=0",
        "figures=false",
        f"out={tmp_path / 'out'}",
    )
    names = [result.name for result in evaluate(cfg, saved_runs(cfg.run))]
    swept = [f"demo/loss.lambda_pos-{value}/distill" for value in ("0.5", "1.5")]
    assert names == ["demo/baseline", *swept]
    assert (tmp_path / "out/demo/loss.lambda_pos-0.5/seed0/distill/metrics.json").is_file()
    assert (tmp_path / "out/comparison-val.md").read_text().endswith("recall and F1: longer side of the box.\n")


def test_no_threshold_is_chosen_on_the_images_that_are_scored(
    trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")
    saved = tmp_path / "demo/seed0/baseline/config.yaml"
    saved.write_text(saved.read_text().replace("    test: test", "    test: val"))
    cfg = config("evaluate", f"run={saved.parent}", "trainer.accelerator=cpu", "images=0", "figures=false")
    evaluate(cfg, saved_runs(cfg.run))
    assert "val and test share 5 images: no threshold of best F1" in caplog.text
    record = json.loads((saved.parent / "eval/test/metrics.json").read_text())
    assert record["thresholds"]["best_f1"] is None and record["metrics_at_best_f1"] is None


def test_a_test_split_that_is_not_there_names_the_way_out(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")
    saved = tmp_path / "demo/seed0/baseline/config.yaml"
    saved.write_text(saved.read_text().replace("    test: test", "    test: elsewhere"))
    cfg = config("evaluate", f"run={saved.parent}", "trainer.accelerator=cpu")
    with pytest.raises(UserError, match=r"(?s)split=val scores the validation images; data_root=FOLDER.*'elsewhere'"):
        evaluate(cfg, saved_runs(cfg.run))


@pytest.mark.parametrize("moved", ["", "data_root="])
def test_a_data_set_that_has_moved_names_the_option_of_evaluate(trained: Path, tmp_path: Path, moved: str) -> None:
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")
    saved = OmegaConf.load(tmp_path / "demo/seed0/baseline/config.yaml")
    coco = {"_target_": "efpn.data.coco.CocoJson", "root": f"{tmp_path}/gone", "splits": {}}
    saved.data.source = coco
    OmegaConf.save(saved, tmp_path / "demo/seed0/baseline/config.yaml")
    words = [f"{moved}{tmp_path}/nowhere"] if moved else []
    cfg = config("evaluate", f"run={tmp_path}/demo/seed0/baseline", "trainer.accelerator=cpu", *words)
    gone = "nowhere" if moved else "gone"
    with pytest.raises(UserError, match=rf"data folder .*/{gone} does not exist; give .* with data_root=FOLDER$"):
        evaluate(cfg, saved_runs(cfg.run))


def test_a_quick_validation_in_training_does_not_shorten_the_evaluation(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")
    saved = tmp_path / "demo/seed0/baseline/config.yaml"
    saved.write_text(saved.read_text().replace("limit_val: null", "limit_val: 2"))
    for limit, images in ((None, 5), (3, 3)):
        cfg = config(
            "evaluate", f"run={saved.parent}", "split=val", "trainer.accelerator=cpu", "images=0", "figures=false",
            f"limit={'null' if limit is None else limit}",
        )  # fmt: skip
        evaluate(cfg, saved_runs(cfg.run))
        out = saved.parent / "eval" / ("val" if limit is None else "val-limit3")
        assert json.loads((out / "metrics.json").read_text())["images"] == images


def test_a_quick_look_chooses_its_threshold_on_as_few_images(trained: Path) -> None:
    cfg = config("evaluate", f"run={trained / 'baseline'}", "limit=2")
    data = eval_data(cfg, latest_run(cfg.run))
    assert [len(data.index(role).records) for role in ("test", "val")] == [2, 2]


def test_a_pattern_without_a_finished_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run=.*nothing\*: matches no finished run"):
        saved_runs(f"{tmp_path}/nothing*")


def test_variants_that_replace_the_extension_take_the_phases_without_one(trained: Path) -> None:
    cfg = config("evaluate", f"run={trained / 'finetune'}", "variant=oracle")
    with pytest.raises(UserError, match="variant=oracle: needs a phase without an extension"):
        evaluate(cfg, saved_runs(cfg.run))


def test_the_extended_level_is_drawn_beside_its_target(trained: Path) -> None:
    cfg = config(
        "evaluate",
        f"run={trained}",
        "trainer.accelerator=cpu",
        "split=val",
        "images=0",
        "figures=false",
        "features=2",
    )
    evaluate(cfg, saved_runs(cfg.run))
    numbers = json.loads((trained / "report-val" / "features.json").read_text())
    assert len(numbers) == 2
    for errors in numbers.values():
        assert errors.keys() == {"P2, upsampled", "P2' demo/distill", "P2' demo/finetune"}
        assert errors["P2' demo/distill"] > 0


def test_features_need_a_phase_that_has_them(trained: Path) -> None:
    cfg = config("evaluate", f"run={trained / 'baseline'}", "trainer.accelerator=cpu", "features=1", "figures=false")
    with pytest.raises(UserError, match="needs a phase with an extension"):
        evaluate(cfg, saved_runs(cfg.run))


def test_two_seeds_are_two_rows_in_table_and_figures_and_a_quick_one_is_marked(trained: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        shutil.copytree(trained / "finetune", tmp_path / f"demo/seed{seed}/finetune")
    file = tmp_path / "demo/seed1/finetune/config.yaml"
    quick = OmegaConf.load(file)
    OmegaConf.update(quick, "paths", {"outputs": "./out/", "unswept": "./out//quick/demo/seed0"})  # as +quick=yes does
    OmegaConf.save(quick, file)
    cfg = config("evaluate", f"run='{tmp_path}/demo/seed*'", "split=val", "trainer.accelerator=cpu", "images=0")
    names = [result.name for result in evaluate(cfg, saved_runs(cfg.run))]
    assert names == ["demo/seed0/finetune", "demo/seed1/finetune"]
    page = (tmp_path / "demo/report-val/report.html").read_text()
    assert all(page.count(f"<h3>{name}</h3>") == 1 for name in names) and page.count("<summary>config</summary>") == 2
    assert "the numbers of these mean nothing" in page
    assert "the numbers of these mean nothing" in (tmp_path / "demo/comparison-val.md").read_text()
    assert json.loads((tmp_path / "demo/report-val/losses.json").read_text()).keys() == set(names)


def test_a_run_that_is_named_twice_is_one_row(trained: Path) -> None:
    assert len(saved_runs([str(trained / "finetune"), str(trained / "finetune" / "weights.ckpt")])) == 1


def test_all_that_an_evaluation_writes_goes_where_it_is_told(trained: Path, tmp_path: Path) -> None:
    before = sorted(trained.rglob("*"))
    rows = f"run=[{trained / 'baseline'},{trained / 'finetune'}]"
    where = [rows, f"out={tmp_path / 'mine'}", "split=val", "trainer.accelerator=cpu", "images=0"]
    cfg = config("evaluate", *where)
    evaluate(cfg, saved_runs(cfg.run))
    assert (tmp_path / "mine/comparison-val.md").is_file() and (tmp_path / "mine/report-val/report.html").is_file()
    assert sorted(trained.rglob("*")) == before


def test_a_phase_in_a_folder_of_another_name_is_refused(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "finetune", tmp_path / "best")
    with pytest.raises(UserError, match=r"best: the folder's name says which phase of demo it is, and 'best' is none"):
        saved_runs(str(tmp_path / "best"))


def test_features_of_two_baselines_are_not_mixed(trained: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained / "distill", tmp_path / "demo/seed1/distill") / "weights.ckpt"
    checkpoint = read_checkpoint(other)
    moved = {key: value * (1.1 if ".fpn." in key else 1) for key, value in checkpoint.state_dict.items()}
    replace(checkpoint, state_dict=moved).save(other)
    where = f"run=[{trained / 'distill'},{tmp_path / 'demo/seed1/distill'}]"
    cfg = config("evaluate", where, "split=val", "trainer.accelerator=cpu", "figures=false", "features=1", "images=0")
    with pytest.raises(
        UserError, match="demo/seed1/distill comes from another baseline than demo/distill; draw them apart"
    ):
        evaluate(cfg, saved_runs(cfg.run))


@pytest.mark.parametrize("option", ["score_threshold=50", "limit=-1", "short_side=big", "images=-1"])
def test_numbers_that_mean_nothing_are_refused_before_anything_is_read(trained: Path, option: str) -> None:
    cfg = config("evaluate", f"run={trained}", "trainer.accelerator=cpu", option)
    with pytest.raises(UserError, match=f"{option}: must be a"):
        evaluate(cfg, saved_runs(cfg.run))


def test_a_result_file_on_the_data_of_a_run_scores_as_the_run_does(trained: Path, tmp_path: Path) -> None:
    common = [f"run={trained / 'baseline'}", "trainer.accelerator=cpu", "images=0", "figures=false"]
    own = evaluate(config("evaluate", *common), saved_runs(str(trained / "baseline")))[-1]
    shutil.copy(trained / "baseline/eval/test/detections.json", tmp_path / "copy.json")
    cfg = config("evaluate", *common, f"detections={tmp_path / 'copy.json'}")
    rows = evaluate(cfg, saved_runs(cfg.run))
    assert [row.name for row in rows] == ["demo/baseline", "copy"]
    assert rows[1].metrics == pytest.approx(own.metrics)


PHASES = ("baseline", "distill", "finetune")
QUICK = ["trainer.accelerator=cpu", "images=0", "figures=false", "split=val", "choose_threshold=false"]


@pytest.mark.parametrize(
    "table, rows",
    [
        ("3", ["baseline", "baseline fpn_2x", "baseline oracle", "distill", "finetune"]),
        ("5", ["baseline on_p3", "baseline on_p3_2x", "distill on_p3_ext"]),
        ("8", ["baseline", "distill", "finetune"]),
    ],
)
def test_a_table_of_the_paper_is_one_call(trained: Path, tmp_path: Path, table: str, rows: list[str]) -> None:
    phases = ",".join(str(trained / phase) for phase in PHASES)
    cfg = config("evaluate", f"run=[{phases}]", f"table=table{table}", f"out={tmp_path}", *QUICK)
    assert [result.name for result in evaluate(cfg, saved_runs(cfg.run))] == [f"demo/{name}" for name in rows]
    written = json.loads((tmp_path / f"comparison-val-table{table}.json").read_text())
    assert written["columns"] == list(cfg.columns) and [row["name"] for row in written["rows"]] == [
        f"demo/{name}" for name in rows
    ]
    head = (tmp_path / f"comparison-val-table{table}.md").read_text().splitlines()[0]
    assert head == f"|  | {' | '.join(cfg.columns)} |"


def test_the_multi_scale_test_stands_beside_the_single_scale_one(trained: Path) -> None:
    cfg = config("evaluate", f"run={trained / 'finetune'}", "table=table6", "scales=[1,1.5]", *QUICK)
    results = evaluate(cfg, saved_runs(cfg.run))
    assert [result.name for result in results] == ["demo/finetune", "demo/finetune multi_scale-1-1.5"]
    assert (trained / "finetune/eval/val-multi_scale-1-1.5/metrics.json").is_file()


@pytest.mark.parametrize(
    "option, message",
    [
        ("scales=[]", "scales=[]: must be a list of one or more, each a number greater than 0, up to 2"),
        ("scales=[1,3]", "scales=[1, 3]: must be a list of one or more, each a number greater than 0, up to 2"),
        ("variant=orakle", "variant=orakle: unknown (did you mean oracle?)"),
        ("variant=[own,on_p4]", "variant=on_p4: unknown (did you mean on_p3?)"),
        ("variant=[]", "variant=[]: name at least one of own, oracle"),
        ("columns=[]", "columns=[]: must be a list of one or more, each text"),
        ("columns=[AP,AP_XS]", "columns: no metric AP_XS (did you mean AP_S?); choose from AP, AR, AP_S"),
        ("logger=csv", "an evaluation writes its files anyway"),
    ],
)
def test_a_mistaken_choice_is_named_before_anything_is_read(trained: Path, option: str, message: str) -> None:
    cfg = config("evaluate", f"run={trained / 'baseline'}", option, *QUICK)
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate(cfg, saved_runs(cfg.run))


def test_detection_on_p3x_needs_the_old_head(trained: Path) -> None:
    cfg = config("evaluate", f"run={trained / 'finetune'}", "variant=on_p3_ext", *QUICK)
    with pytest.raises(UserError, match=r"variant=on_p3_ext: needs a phase with an extension and the old head alone"):
        evaluate(cfg, saved_runs(cfg.run))


def test_an_evaluation_goes_to_wandb_with_its_tables_and_images(trained: Path, tmp_path: Path) -> None:
    cfg = config(
        "evaluate",
        f"run=[{trained / 'baseline'},{trained / 'finetune'}]",
        f"out={tmp_path / 'out'}",
        f"paths.outputs={tmp_path}",
        "logger=wandb",
        "logger.offline=true",
        "split=val",
        "images=1",
        "trainer.accelerator=cpu",
    )
    evaluate(cfg, saved_runs(cfg.run))
    media = next((tmp_path / "wandb").glob("offline-run-*")) / "files/media"
    stems = {path.name.split("_")[0] for path in (media / "table").glob("*.json")}
    assert stems == {"comparison", "sizes", "classes"}
    compared = json.loads(next((media / "table").glob("comparison*.json")).read_text())
    assert compared["columns"] == ["model", *cfg.columns]
    assert [row[0] for row in compared["data"]] == ["demo/baseline", "demo/finetune"]
    shown = {path.name.rsplit("_", 2)[0] for path in (media / "images").rglob("*.png")}
    assert {"accuracy_recall", "scales", "losses"} <= shown and (media / "images/demo").is_dir()
    assert list((media / "html").glob("report_*.html"))


def test_wandb_gets_no_image_that_was_not_drawn_this_time(trained: Path, tmp_path: Path) -> None:
    where = [f"run={trained / 'baseline'}", f"out={tmp_path / 'out'}", f"paths.outputs={tmp_path}"]
    options = ["split=val", "trainer.accelerator=cpu", "images=0"]
    (tmp_path / "out/report-val").mkdir(parents=True)
    for earlier in ("accuracy_recall.png", "report.html"):
        (tmp_path / "out/report-val" / earlier).write_bytes(b"of an earlier evaluation")
    wandb_too = ["figures=false", "logger=wandb", "logger.offline=true"]
    evaluate(config("evaluate", *where, *options, *wandb_too), saved_runs(str(trained / "baseline")))
    media = next((tmp_path / "wandb").glob("offline-run-*")) / "files/media"
    assert (media / "table").is_dir() and not (media / "images").exists() and not (media / "html").exists()


def test_the_model_can_be_changed_in_evaluation_and_the_label_says_so(trained: Path, tmp_path: Path) -> None:
    where = [f"run={trained / 'finetune'}", *QUICK]
    for change in ("+model.rpn.score_thresh=0.9999", "+model.tiles=null"):
        cfg = config("evaluate", *where, change)
        evaluate(cfg, saved_runs(cfg.run))
    few = json.loads((trained / "finetune/eval/val-rpn.score_thresh-0.9999/detections.json").read_text())
    whole = json.loads((trained / "finetune/eval/val-tiles-None/detections.json").read_text())
    assert not few and whole
    evaluate(config("evaluate", *where), saved_runs(str(trained / "finetune")))
    places = [trained / f"finetune/eval/val{mark}" for mark in ("", "-rpn.score_thresh-0.9999", "-tiles-None")]
    names = [row.name for row in load_rows(places)]
    assert names == ["demo/finetune", "demo/finetune rpn.score_thresh-0.9999", "demo/finetune tiles-None"]


def test_a_change_of_the_extension_leaves_phases_without_one_alone(trained: Path) -> None:
    change = OmegaConf.create({"extension": {"margin": 0}})
    for phase in ("baseline", "finetune"):
        (run,) = saved_runs(str(trained / phase))
        detector = rebuild_detector(run, read_checkpoint(run.checkpoint), changes=change)
        assert getattr(detector.backbone.extension, "margin", None) == (0 if phase == "finetune" else None)


def test_a_part_that_the_model_has_not_cannot_be_changed(trained: Path) -> None:
    cfg = config("evaluate", f"run={trained / 'baseline'}", "+model.small.below=40", *QUICK)
    with pytest.raises(UserError, match=r"model\.small: the baseline phase in .* has none to change"):
        evaluate(cfg, saved_runs(cfg.run))


def test_a_table_of_the_paper_has_its_own_rows_alone_and_the_facts_say_what_was_read(trained: Path) -> None:
    where = [f"run={trained / 'baseline'}", *QUICK]
    evaluate(config("evaluate", *where), saved_runs(str(trained / "baseline")))
    cfg = config("evaluate", *where, "variant=on_p3", "called=mine")
    assert [result.name for result in evaluate(cfg, saved_runs(cfg.run))] == ["demo/baseline on_p3"]
    facts = json.loads((trained / "baseline/eval/val-on_p3/metrics.json").read_text())["more"]
    assert facts["small RoIs"] == "all, read from p3" and facts["changed in the model"] == "nothing"


def test_a_result_file_has_no_variants(trained: Path, tmp_path: Path) -> None:
    cfg = config("evaluate", f"run={trained / 'baseline'}", f"detections={tmp_path / 'x.json'}", "table=table5", *QUICK)
    with pytest.raises(UserError, match="detections=FILE is scored as it is"):
        evaluate(cfg, saved_runs(cfg.run))


def test_a_change_of_what_the_model_has_not_is_named(trained: Path) -> None:
    cfg = config("evaluate", f"run={trained / 'finetune'}", "+model.rpn.score_tresh=0.1", *QUICK)
    with pytest.raises(UserError, match=r"model: .*score_tresh.*the config of .*finetune shows what there is"):
        evaluate(cfg, saved_runs(cfg.run))
