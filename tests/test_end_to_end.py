"""The real configs, end to end, at tiny scale: phases, freezing, resume."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import ROOT, STEPS, TINY, one_step, run, tiny

from efpn.errors import UserError
from efpn.runs.checkpoints import read_checkpoint
from efpn.runs.phases import phase_run
from efpn.runs.saved import broken_lineage, saved_runs
from efpn.tasks.base import DetectorTask
from efpn.training.run import train

pytestmark = pytest.mark.slow

PHASES = ("baseline", "distill", "finetune")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / "weights.ckpt").state_dict


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {key for key, value in before.items() if not torch.equal(value, after[key])}


def test_every_phase_leaves_its_checkpoint_metrics_and_config(trained: Path) -> None:
    for phase in PHASES:
        checkpoint = read_checkpoint(trained / phase / "weights.ckpt")
        assert (checkpoint.phase, checkpoint.steps) == (phase, STEPS)
        record = json.loads((trained / phase / "metrics.json").read_text())
        assert (
            record["steps"] == STEPS
            and record["config_hash"] == checkpoint.config_hash
            and "val/AP" in record["metrics"]
        )
        assert (trained / phase / "config.yaml").is_file() and not (trained / phase / "last.ckpt").exists()


def test_the_baseline_trains_batch_norm_and_all(trained: Path) -> None:
    state = weights(trained / "baseline")
    assert state["backbone.body.bn1.running_mean"].any() and state["backbone.body.bn1.num_batches_tracked"] > 0


def test_distillation_leaves_all_but_the_extension_bit_identical(trained: Path) -> None:
    baseline, distilled = weights(trained / "baseline"), weights(trained / "distill")
    assert changed(baseline, distilled) == set()
    assert {key for key in distilled if key not in baseline} == {
        key for key in distilled if key.startswith("backbone.extension.")
    }


def test_finetuning_leaves_all_but_what_it_names_bit_identical(trained: Path) -> None:
    distilled, finetuned = weights(trained / "distill"), weights(trained / "finetune")
    moved = changed(distilled, finetuned)
    assert moved and all(key.startswith("backbone.extension.") for key in moved)  # the demo trains it, as the release
    assert {key for key in finetuned if key not in distilled} == {
        key for key in finetuned if key.startswith("roi_heads.small_head.")
    }


def test_the_paper_finetunes_the_new_head_alone(trained: Path, data: Path, tmp_path: Path) -> None:
    only_head = "phases.finetune.task.trainable=[*small_head.*]"
    init = f"init_ckpt={trained / 'distill' / 'weights.ckpt'}"
    train(tiny(tmp_path, data, "phase=finetune", only_head, init))
    assert changed(weights(trained / "distill"), weights(tmp_path / "demo/seed0/finetune")) == set()


@pytest.mark.parametrize("trainable", ["[*small_head.*]", "[*small_head.*,backbone.extension.*]"])
def test_finetuning_without_distillation_trains_extension_and_head(
    trainable: str, trained: Path, data: Path, tmp_path: Path
) -> None:
    undistilled = [
        "phase=finetune",
        "phases.finetune.init_from=baseline",
        f"phases.finetune.task.trainable={trainable}",
    ]
    before = weights(trained / "baseline")
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")
    _, objects = train(tiny(tmp_path, data, *undistilled))
    after = weights(tmp_path / "demo/seed0/finetune")
    assert changed(before, after) == set()
    trains = {name for name, one in objects["detector"].named_parameters() if one.requires_grad}
    assert trains == {key for key in after if key not in before}
    fpn, lateral = before["backbone.fpn.inner_blocks.0.0.weight"], after["backbone.extension.laterals.0.weight"]
    assert 0 < (fpn - lateral).abs().max() < 0.1  # started there, and moved
    with pytest.raises(UserError, match=r"another config: phases\.finetune\.init_from \(baseline -> distill\)"):
        train(tiny(tmp_path, data, "phase=finetune", "resume=true", undistilled[2]))  # the usual one goes elsewhere


def test_a_phase_that_starts_from_none_there_is_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"phases\.finetune\.init_from=distil: no such phase; use null or one of"):
        train(tiny(tmp_path, data, "phase=finetune", "phases.finetune.init_from=distil"))
    with pytest.raises(UserError, match=r"trainable: \['backbone.extension.\*'\] matches no parameter"):
        train(tiny(tmp_path, data, "phases.distill.model.extension=null", "phases.distill.model.detail=null"))
    assert not list(tmp_path.rglob("weights.ckpt"))


def test_the_control_goes_on_from_the_baseline(trained: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "demo/seed0"
    shutil.copytree(trained / "baseline", run / "baseline")
    train(tiny(tmp_path, data, "phase=control"))
    assert changed(weights(run / "baseline"), weights(run / "control"))
    assert read_checkpoint(run / "control" / "weights.ckpt").steps == STEPS


def test_an_interrupted_run_ends_as_an_unbroken_one(trained: Path, data: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop_at(step: int):
        def raise_there(self, batch, batch_idx):
            if self.trainer.global_step == step:
                raise Stop
            return original(self, batch, batch_idx)

        return raise_there

    original = DetectorTask.on_train_batch_start
    for _ in PHASES:  # each phase is stopped one step after its resume point, and resumed
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
            patch.setattr(DetectorTask, "on_train_batch_start", stop_at(3))
            train(tiny(tmp_path, data, "resume=true"))
        interrupted = [p for p in PHASES if (tmp_path / "demo/seed0" / p / "last.ckpt").exists()]
        train(tiny(tmp_path, data, "resume=true", f"phase={interrupted[0]}"))
    for phase in PHASES:
        ours = read_checkpoint(tmp_path / "demo/seed0" / phase / "weights.ckpt")
        assert ours.steps == STEPS
        for key, value in weights(trained / phase).items():
            torch.testing.assert_close(ours.state_dict[key], value, rtol=1e-5, atol=1e-6, msg=f"{phase}: {key}")


def test_a_finished_phase_is_not_overwritten_unless_asked(trained: Path, data: Path) -> None:
    outputs = trained.parents[1]
    before = (trained / "baseline" / "weights.ckpt").stat().st_mtime_ns
    for more in ([], ["ckpt_path=elsewhere/last.ckpt"]):
        with pytest.raises(
            UserError, match=r"phase=baseline is finished in .*resume=true keeps what is there.*overwrite=true"
        ):
            train(tiny(outputs, data, "phase=baseline", *more))
    metrics, objects = train(tiny(outputs, data, "resume=true"))
    assert objects == {} and "val/AP" in metrics  # all were finished: nothing was trained
    assert (trained / "baseline" / "weights.ckpt").stat().st_mtime_ns == before


def test_a_missing_checkpoint_names_the_command_that_makes_it(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"phase=distill starts from the weights of phase=baseline.*phase=baseline`"):
        train(tiny(tmp_path, data, "phase=distill"))


def test_a_checkpoint_of_another_architecture_is_refused(trained: Path, data: Path, tmp_path: Path) -> None:
    init = f"init_ckpt={trained / 'baseline' / 'weights.ckpt'}"
    with pytest.raises(UserError, match="does not fit: "):
        train(tiny(tmp_path, data, "phase=distill", "model.channels=16", init))


def test_ckpt_path_and_init_ckpt_exclude_each_other(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ckpt_path and init_ckpt: the first continues this phase"):
        train(tiny(tmp_path, data, "phase=baseline", "ckpt_path=a", "init_ckpt=b"))


@pytest.mark.parametrize(
    "logger, leaves",
    [
        (["logger=csv"], "csv/version_0/metrics.csv"),
        (["logger=tensorboard"], "tensorboard/version_0/events*"),
        (["logger=wandb", "logger.offline=true"], "wandb/offline-run-*"),
        (["logger=none"], "metrics.json"),
    ],
)
def test_every_logger_logs_and_needs_no_account(logger: list[str], leaves: str, data: Path, tmp_path: Path) -> None:
    train(tiny(tmp_path, data, "phase=baseline", "callbacks=default", *one_step("baseline"), *logger))
    assert list((tmp_path / "demo/seed0/baseline").glob(leaves))


def test_a_sweep_of_one_phase_starts_from_the_unswept_baseline_and_keeps_its_runs_apart(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")
    where = [f"paths.outputs={tmp_path}", f"data.root={data}"]
    done = run("train.py", "-m", *TINY, *where, "phase=distill", "loss.lambda_pos=0.5,1.5")
    assert done.returncode == 0, done.stdout + done.stderr
    swept = [tmp_path / "demo" / f"loss.lambda_pos-{value}" / "seed0" / "distill" for value in ("0.5", "1.5")]
    for folder in swept:
        assert changed(weights(trained / "baseline"), weights(folder)) == set()
    assert changed(weights(swept[0]), weights(swept[1]))
    assert not (ROOT / "multirun.yaml").exists()


def test_two_processes_train_all_phases_and_score_as_one_does(trained: Path, data: Path, tmp_path: Path) -> None:
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    done = run("train.py", *TINY, *two, f"paths.outputs={tmp_path}", f"data.root={data}")
    assert done.returncode == 0, done.stdout + done.stderr
    for phase in PHASES:
        assert read_checkpoint(tmp_path / "demo/seed0" / phase / "weights.ckpt").steps == STEPS
    assert changed(weights(tmp_path / "demo/seed0/baseline"), weights(tmp_path / "demo/seed0/finetune")) == set()
    place = trained / "finetune"
    single = run("evaluate.py", f"run={place}", "trainer.accelerator=cpu", f"out={tmp_path / 'one'}", "split=val")
    double = run("evaluate.py", f"run={place}", *two, f"out={tmp_path / 'two'}", "split=val")
    assert single.returncode == 0 and double.returncode == 0, single.stderr + double.stderr
    records = [json.loads((tmp_path / n / "metrics.json").read_text())["metrics"] for n in ("one", "two")]
    assert records[0] == pytest.approx(records[1], abs=1e-6)
    found = [json.loads((tmp_path / n / "detections.json").read_text()) for n in ("one", "two")]
    assert len(found[0]) > 0  # five images on two processes: none was scored twice
    for one, other in zip(*found, strict=True):
        assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
        assert one["bbox"] + [one["score"]] == pytest.approx(other["bbox"] + [other["score"]], abs=1e-3)


def test_what_was_run_with_another_config_is_neither_kept_nor_continued(trained: Path, data: Path) -> None:
    with pytest.raises(UserError, match=r"phase=distill .* was run with another config: .*lambda_pos \(1.0 -> 2.0\)"):
        train(tiny(trained.parents[1], data, "resume=true", "loss.lambda_pos=2.0"))
    of_a_sweep = replace(phase_run(tiny(trained.parents[1], data, "loss.lambda_pos=2.0"), "distill"), shared=True)
    with pytest.raises(UserError, match="`python train.py phase=distill overwrite=true` starts again"):
        of_a_sweep.require_same_config()


def test_data_may_move_and_other_data_are_neither_kept_nor_continued_nor_started_from(
    trained: Path, data: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "demo/seed0")
    moved, fewer = (shutil.copytree(data, tmp_path / name) for name in ("moved", "fewer"))
    for file in fewer.rglob("annotations.json"):
        table = json.loads(file.read_text())
        with_a_box = next(i for i in table["imgs"].values() if i["path"].startswith("train") and i["objects"])
        with_a_box["objects"] = []
        file.write_text(json.dumps(table))
    train(tiny(tmp_path, moved, "resume=true"))  # all is kept
    with pytest.raises(UserError, match=r"baseline in .* is of other data, 8 images, .*/fewer has, 8 images, .*OTHER"):
        train(tiny(tmp_path, fewer, "resume=true"))
    checkpoint = read_checkpoint(tmp_path / "demo/seed0/baseline/weights.ckpt")
    replace(checkpoint, classes=["cat", *checkpoint.classes[1:]]).save(tmp_path / "demo/seed0/baseline/weights.ckpt")
    with pytest.raises(UserError, match=r"phase=distill starts from .*, trained on other classes \('cat, .*OTHER"):
        train(tiny(tmp_path, data, "phase=distill", "overwrite=true"))


def test_overwriting_says_so_and_clears_the_old_phase_before_it_starts(
    trained: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyError):
        patch.setattr(DetectorTask, "on_train_batch_start", lambda *args: {}["killed at once"])
        train(tiny(tmp_path, data, "phase=baseline", "overwrite=true", "model.roi.batch_size=8"))
    assert not (tmp_path / "demo/seed0/baseline/weights.ckpt").exists()
    assert f"{tmp_path}/demo/seed0/baseline was trained before, and is trained anew" in caplog.text


def test_a_phase_of_a_replaced_baseline_is_not_kept(trained: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "demo/seed0")
    changed_baseline = "phases.baseline.task.optimizer.lr=0.001"
    train(tiny(tmp_path, data, "phase=baseline", "overwrite=true", changed_baseline))
    with pytest.raises(UserError, match=r"phase=distill .* started from another baseline .*overwrite=true` trains it"):
        train(tiny(tmp_path, data, "resume=true", changed_baseline))
    assert broken_lineage(saved_runs(str(trained))) == []
    said = broken_lineage(saved_runs(str(tmp_path / "demo/seed0")))
    assert "demo/distill started from another baseline than the one that stands here" in said
    assert not any("finetune" in one for one in said)  # its distillation is the one that stands here
    train(tiny(tmp_path, data, "phase=distill", "overwrite=true", changed_baseline))
    with pytest.raises(UserError, match=r"phase=finetune .* started from another distill .*overwrite=true` trains it"):
        train(tiny(tmp_path, data, "resume=true", changed_baseline))
    assert len(broken_lineage(saved_runs(str(tmp_path / "demo/seed0")))) == 1
    job = tmp_path / "demo/loss.lambda_pos-2/seed0/finetune"  # its other phases are those of the unswept run
    shutil.copytree(tmp_path / "demo/seed0/finetune", job)
    assert len(broken_lineage(saved_runs([str(tmp_path / "demo/seed0/distill"), str(job)]))) == 1
    under_way = dict.fromkeys(("state_dict", "loops", "optimizer_states", "lr_schedulers", "global_step", "epoch"))
    torch.save(under_way, tmp_path / "demo/seed0/finetune/last.ckpt")
    (tmp_path / "demo/seed0/finetune/weights.ckpt").unlink()
    with pytest.raises(UserError, match="phase=finetune .* started from another distill"):
        train(tiny(tmp_path, data, "phase=finetune", "resume=true", changed_baseline))


def test_a_sweep_without_its_baseline_names_the_unswept_place_and_command(data: Path, tmp_path: Path) -> None:
    where = [f"paths.outputs={tmp_path}", f"data.root={data}"]
    done = run("train.py", "-m", *TINY, *where, "phase=distill", "loss.lambda_pos=0.5,1.5")
    assert done.returncode == 2 and f"{tmp_path}/demo/seed0/baseline/weights.ckpt is not there" in done.stderr
    assert "loss.lambda_pos=0.5; loss.lambda_pos=1.5: phase=distill starts from" in done.stderr  # both, for one reason
    command = done.stderr.split("make it with `")[1].split("`")[0]
    assert "lambda_pos" not in command and command.endswith("phase=baseline")


def test_weights_for_one_phase_are_refused_for_several(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="belong to one phase: say which with phase=NAME"):
        train(tiny(tmp_path, data, "init_ckpt=x"))


def test_the_last_weights_are_validated_whatever_the_numbers(data: Path, tmp_path: Path) -> None:
    numbers = ["phases.baseline.max_steps=3", "phases.baseline.checkpoint_every=2", "phases.baseline.val_every=20"]
    metrics, objects = train(tiny(tmp_path, data, "phase=baseline", *numbers))
    assert objects["task"].validated_at == 3 and "val/AP" in metrics
    with pytest.raises(UserError, match="val_every=3: must be a multiple of checkpoint_every=2"):
        train(tiny(tmp_path / "b", data, "phase=baseline", *numbers[:2], "phases.baseline.val_every=3"))


def test_a_phase_changes_what_it_says_in_the_data(trained: Path, data: Path, tmp_path: Path) -> None:
    init = f"init_ckpt={trained / 'baseline' / 'weights.ckpt'}"
    short = one_step("distill")
    _, objects = train(
        tiny(tmp_path, data, "phase=distill", init, *short, "+phases.distill.data.train_transform.crop=32")
    )
    images_1x, images_2x, _ = next(iter(objects["data"].train_dataloader()))
    assert images_1x[0].shape == (3, 32, 32) and images_2x[0].shape == (3, 64, 64)


def test_a_learning_rate_follows_the_batch_where_the_phase_names_its_reference(data: Path, tmp_path: Path) -> None:
    cfg = tiny(tmp_path, data, "phase=baseline", "phases.baseline.reference_batch=16", *one_step("baseline"))
    rate = cfg.phases.baseline.task.optimizer.lr
    _, objects = train(cfg)
    assert objects["trainer"].optimizers[0].param_groups[0]["initial_lr"] == pytest.approx(rate * 2 / 16)


def test_a_run_in_mixed_precision(mixed: Path) -> None:
    for phase in PHASES:
        assert "val/AP" in json.loads((mixed / phase / "metrics.json").read_text())["metrics"]


def test_a_truncated_resume_point_is_named_and_nothing_is_lost(data: Path, tmp_path: Path) -> None:
    cfg = tiny(tmp_path, data, "phase=baseline", "resume=true")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyError):
        original = DetectorTask.on_train_batch_start
        stop = lambda self, *a: {}["stop"] if self.global_step == 3 else original(self, *a)  # noqa: E731
        patch.setattr(DetectorTask, "on_train_batch_start", stop)
        train(cfg)
    point = tmp_path / "demo/seed0/baseline/last.ckpt"
    point.write_bytes(point.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"last\.ckpt: damaged or truncated"):
        train(cfg)
    assert point.stat().st_size == 5000


def test_a_logger_that_cannot_start_does_not_cost_the_old_weights(
    trained: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained / "baseline", tmp_path / "demo/seed0/baseline")

    def refuse(*args, **options):
        raise OSError("no account")

    monkeypatch.setattr("pytorch_lightning.loggers.CSVLogger.log_hyperparams", refuse)
    with pytest.raises(OSError, match="no account"):
        train(tiny(tmp_path, data, "phase=baseline", "overwrite=true", "logger=csv"))
    assert (tmp_path / "demo/seed0/baseline/weights.ckpt").exists()
