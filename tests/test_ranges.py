"""Values that no run can have are one line each, with key, value and what is allowed, before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from helpers import ROOT, config, run
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from efpn.errors import UserError
from efpn.ranges import BENCHMARK, EVALUATE, EXPORT, PREDICT, SUMMARISE, TRAIN, check_targets, check_values, walk

parsed = OverridesParser.create().parse_override
BY_ENTRY = {
    "train": TRAIN, "evaluate": EVALUATE, "predict": PREDICT, "export": EXPORT, "benchmark": BENCHMARK,
    "summarise": SUMMARISE,
}  # fmt: skip
GIVEN = {
    "train": [], "evaluate": ["run=x"], "predict": ["run=x", "images=y"], "export": ["run=x"], "benchmark": [],
    "summarise": ["sweep=x"],
}  # fmt: skip

WHAT = sorted(path.stem for path in (ROOT / "conf/what").glob("*.yaml"))


@pytest.fixture(scope="module")
def composed() -> Mapping[str, DictConfig]:
    """The config of each entry, to which the tests make their changes as Hydra does."""
    return {entry: config(entry, *GIVEN[entry]) for entry in BY_ENTRY}


@pytest.mark.parametrize(
    "entry, option, allowed",
    [
        ("train", "phases.baseline.task.optimizer.lr=-0.1", "a number greater than 0"),
        ("train", "phases.distill.task.optimizer.lr=fast", "a number greater than 0"),
        ("train", "phases.baseline.task.optimizer.lr=nan", "a number greater than 0"),
        ("train", "phases.finetune.task.optimizer.momentum=1.5", "a number from 0 on and less than 1"),
        ("train", "phases.baseline.max_steps=0", "a whole number, at least 1"),
        ("train", "phases.distill.checkpoint_every=-1", "a whole number, at least 1"),
        ("train", "phases.finetune.val_every=0", "a whole number, at least 1"),
        ("train", "phases.baseline.task.schedule.warmup_steps=-3", "a whole number, at least 0"),
        ("train", "seed=-1", "a whole number from 0 to 4294967295"),
        ("train", "seed=4294967296", "a whole number from 0 to 4294967295"),
        ("train", "seed=1.5", "a whole number from 0 to 4294967295"),
        ("train", "name=../../x", "the name of one folder"),
        ("train", "name=..", "the name of one folder"),
        ("train", "name=a/b", "the name of one folder"),
        ("train", "name=''", "the name of one folder"),
        ("train", "data.train_transform.short_side=0", "a whole number, at least 1"),
        ("train", "+phases.distill.data.train_transform.crop=0", "a whole number, at least 1, or null"),
        ("train", "data.train_transform.repeat_crop=large", "a whole number, at least 1, or null"),
        ("train", "data.train_transform.repeat_crop=0", "a whole number, at least 1, or null"),
        ("train", "data.train_transform.scale_jitter=[0.5]", "[low, high] with 0.05 <= low <= high <= 4"),
        ("train", "data.train_transform.scale_jitter=[2,1]", "[low, high] with 0.05 <= low <= high <= 4"),
        ("train", "data.batch_size=0", "a whole number, at least 1"),
        ("train", "data.source.options.side=0", "a whole number, at least 16"),
        ("train", "data.source.options.signs=3", "a list of 2, each a whole number, at least 0"),
        ("train", "data.source.options.median_size=-1", "a number greater than 0"),
        ("train", "data.root=7", "a path as text (of a folder called 7: ./7)"),
        ("train", "paths.outputs=7", "a path as text"),
        ("train", "ckpt_path=7", "a path as text"),
        ("train", "sequence=[]", "a list of one or more, each text"),
        ("train", "phases.baseline.task.trainable=7", "a list of one or more, each text"),
        ("train", "data.num_workers=-1", "a whole number, at least 0"),
        ("train", "data.on_unreadable=errror", "one of error, skip"),
        ("train", "data.on_unreadable=Error", "one of error, skip"),
        ("train", "data.check_images=null", "one of all, header, none"),
        ("train", "data.eval_batch_size='8'", "a whole number, at least 1"),
        ("train", "model.roi.score_thresh=7", "a number from 0 to 1"),
        ("train", "+phases.finetune.model.rpn.score_thresh=7", "a number from 0 to 1"),
        ("train", "model.rpn.anchor_sizes=[0.5,8,16,32,64]", "a list of one or more, each a whole number, at least 1"),
        ("train", "model.rpn.pre_nms_top_n=[0,100]", "a list of 2, each a whole number, at least 1"),
        ("train", "model.roi.canonical_size=0", "a whole number, at least 1"),
        ("train", "mining.keep=0", "a number greater than 0, up to 1, or null"),
        ("train", "mining.nms=7", "a number from 0 to 1, or null"),
        ("train", "phases.distill.model.small.level=p9", "one of p2, p3, p2_ext, p3_ext"),
        ("train", "+extension.last_stage=6", "a whole number from 2 to 5"),
        ("train", "small_roi_below=0", "a number greater than 0"),
        ("train", "extension.margin=-1", "a whole number, at least 0, or null"),
        ("train", "model.tiles.dense_from=high", "a number greater than 0"),
        ("train", "mining.per_image=0", "a whole number, at least 1, or null"),
        ("train", "mining.keep=1.5", "a number greater than 0, up to 1, or null"),
        ("train", "phases.finetune.model.small.below=0", "a number greater than 0"),
        ("train", "backbone.norm=group", "one of frozen, batch"),
        ("train", "backbone.norm=Frozen", "one of frozen, batch"),
        ("train", "backbone.trainable_stages=6", "a whole number from 0 to 5"),
        ("train", "extension.source=middle", "one of inner, output"),
        ("train", "extension.upsampler.blocks=-1", "a whole number, at least 0"),
        ("train", "extension.upsampler.blocks=1.5", "a whole number, at least 0"),
        ("train", "+extension.upsampler.width=0", "a whole number, at least 1"),
        ("train", "+extension.upsampler.groups=0", "a whole number, at least 1"),
        ("train", "+phases.finetune.model.extension.upsampler.reduction=2", "1 or 3, the kernel of a convolution"),
        ("train", "loss.lambda_pos=-1", "a number, 0 or greater"),
        ("train", "trainer.accumulate_grad_batches=0", "a whole number, at least 1"),
        ("train", "trainer.gradient_clip_val=-1", "a number greater than 0, or null"),
        ("train", "resume=perhaps", "one of auto, true, false"),
        ("evaluate", "score_threshold=50", "a number from 0 to 1"),
        ("evaluate", "run=7", "a path as text (of a folder called 7: ./7), or a list of those"),
        ("evaluate", "out=2026", "a path as text"),
        ("evaluate", "detections=7", "a path as text"),
        ("evaluate", "columns=AP", "a list of one or more, each text"),
        ("evaluate", "split=train", "one of val, test"),
        ("evaluate", "+model.roi.score_thresh=7", "a number from 0 to 1"),
        ("evaluate", "+model.extension.source=middle", "one of inner, output"),
        ("evaluate", "+model.small.below=0", "a number greater than 0"),
        ("evaluate", "+model.backbone.norm=group", "one of frozen, batch"),
        ("evaluate", "+model.extension.margin=-1", "a whole number, at least 0, or null"),
        ("evaluate", "batch_size=0", "a whole number, at least 1, or null"),
        ("evaluate", "name=../x", "the name of one folder"),
        ("evaluate", "figures=some", "true or false"),
        ("predict", "run=7", "a path as text"),
        ("predict", "images=[a,7]", "a path as text (of a folder called 7: ./7), or a list of those"),
        ("predict", "+model.rpn.score_thresh=7", "a number from 0 to 1"),
        ("predict", "+model.extension.upsampler.blocks=-1", "a whole number, at least 0"),
        ("predict", "+model.tiles.grid=0", "a whole number, at least 1"),
        ("predict", "slices.size=0", "a whole number, at least 1, or null"),
        ("predict", "slices.overlap=1", "a number from 0 on and less than 1"),
        ("predict", "batch_size=0", "a whole number, at least 1"),
        ("predict", "min_score=7", "a number from 0 to 1, or null"),
        ("summarise", "resamples=0", "a whole number, at least 1"),
        ("export", "out=7", "a path as text"),
        ("export", "check.boxes=0", "a number greater than 0"),
        ("export", "check.scores=tight", "a number greater than 0"),
        ("export", "check.images=0", "a whole number, at least 1"),
        ("benchmark", "size=big", "pixels, at least 32, or HEIGHTxWIDTH such as 700x1000"),
        ("benchmark", "size=64x64x64", "pixels, at least 32"),
        ("benchmark", "size=64x16", "pixels, at least 32"),
        ("benchmark", "precision=int8", "one of 32, bf16, fp16"),
        ("benchmark", "batch=two", "a whole number, at least 1"),
        ("benchmark", "ftt_width=-1", "a whole number, at least 1"),
        ("benchmark", "proposals.total=0", "a whole number, at least 1"),
        ("benchmark", "proposals.small=-1", "a whole number, at least 0"),
        ("benchmark", "model.rpn.score_thresh=2", "a number from 0 to 1"),
        ("benchmark", "backbone.norm=group", "one of frozen, batch"),
        ("benchmark", "backbone.trainable_stages=-1", "a whole number from 0 to 5"),
        ("benchmark", "extension.upsampler.groups=0", "a whole number, at least 1"),
        ("benchmark", "extension.source=middle", "one of inner, output"),
        ("benchmark", "rows.second-pass.model.extension.upsampler.blocks=-1", "a whole number, at least 0"),
        ("benchmark", "+rows.oracle.model.small.below=0", "a number greater than 0"),
        ("benchmark", "+rows.oracle.model.rpn.score_thresh=7", "a number from 0 to 1"),
        ("train", "extension.post_conv='false'", "true or false"),
        ("train", "+phases.distill.task.loss.lambda_pos=abc", "a number, 0 or greater"),
        ("benchmark", "models=[]", "a list of one or more, each text, or null"),
    ],
)
def test_it_is_named_with_what_is_allowed(
    entry: str, option: str, allowed: str, composed: Mapping[str, DictConfig]
) -> None:
    change = parsed(option)
    cfg = composed[entry].copy()
    OmegaConf.update(cfg, change.key_or_group, change.value(), force_add=change.is_add())
    with pytest.raises(UserError) as caught:
        check_values(cfg, BY_ENTRY[entry])
    key = option.split("=")[0].lstrip("+")
    said = str(caught.value)
    assert said.startswith(f"{key}=") and f": must be {allowed}" in said and "\n" not in said


def test_a_class_of_the_users_own_knows_its_options_itself() -> None:
    own = ["extension.upsampler={_target_: mine.Upsampler, _partial_: true, reduction: 4, groups: null}"]
    check_values(config("train", "experiment=tt100k_efpn", *own), TRAIN)
    with pytest.raises(UserError, match="extension.upsampler.reduction=4: must be 1 or 3"):
        check_values(config("train", "experiment=tt100k_efpn", "extension.upsampler.reduction=4"), TRAIN)


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")))
def test_every_experiment_keeps_to_them(experiment: str) -> None:
    cfg = config("train", f"experiment={experiment}")
    check_values(cfg, TRAIN)
    check_targets(cfg)


@pytest.mark.parametrize("entry", ["evaluate", "predict", "export", "benchmark", "summarise"])
def test_the_other_entries_keep_to_them(entry: str) -> None:
    check_values(config(entry, *GIVEN[entry]), BY_ENTRY[entry])


@pytest.mark.parametrize("what", WHAT)
def test_all_that_can_be_measured_keeps_to_them(what: str) -> None:
    check_values(config("benchmark", f"what={what}"), BENCHMARK)


def test_every_rule_is_about_a_key_that_exists() -> None:
    schedule = ["+phases.baseline.task.schedule." + word for word in ("final=0.1", "gamma=0.1", "milestones=[0.5]")]
    loss = "phases.distill.task.loss={_target_: efpn.losses.DualLoss, lambda_pos: 1.0, on_p3_ext: true}"
    more = {"train": ["trainer=slurm", loss, *schedule], "evaluate": ["data=coco", "+model.rpn.score_thresh=0.1"]}
    known = {key for entry in BY_ENTRY for key, _ in walk(config(entry, *GIVEN[entry], *more.get(entry, [])))}
    for choice in ("extension=ftt", "detector=retinanet", "detector=fcos"):
        known |= {key for key, _ in walk(config("train", choice))}
    known |= {key for what in WHAT for key, _ in walk(config("benchmark", f"what={what}"))}
    known |= {key.removeprefix("phases.finetune.") for key in known}
    patterns = {pattern for rules in BY_ENTRY.values() for pattern in rules}
    assert not {pattern for pattern in patterns if not any(fnmatchcase(key, pattern) for key in known)}


def test_all_faults_are_listed_together() -> None:
    with pytest.raises(UserError, match=r"(?s)config: 2 problems.*seed=-1: must.*data.batch_size=0: must"):
        check_values(config("train", "seed=-1", "data.batch_size=0"), TRAIN)


@pytest.mark.parametrize(
    "option, said",
    [
        ("phases.baseline.task.optimizer._target_=torch.optim.SDG", "(torch.optim has no SDG; did you mean SGD?)"),
        ("loss._target_=efpn.no_such.Loss", "no class or function to be had"),
        ("loss._target_=torch.pi", "(3.141592653589793 is not a callable object)"),
        ("+phases.baseline.task.optimizer.momentumm=0.9", "torch.optim.SGD takes no such option; it takes params, lr"),
        ("+trainer.max_stepz=3", "pytorch_lightning.Trainer takes no such option"),
        ("extension._partial_=false", "its config needs _partial_: true beside _target_"),
        ("extension.upsampler._partial_=false", "its config needs _partial_: true beside _target_"),
        ("phases.distill.task.optimizer._partial_=false", "its config needs _partial_: true beside _target_"),
    ],
)
def test_a_target_that_is_not_there_is_named(option: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        check_targets(config("train", option))
    key = option.split("=")[0].lstrip("+").removesuffix("._partial_")
    assert str(caught.value).startswith(key) and said in str(caught.value)


@pytest.mark.slow
def test_nothing_is_written_outside_the_outputs(tmp_path: Path) -> None:
    done = run("train.py", "name=../../x", f"paths.outputs={tmp_path / 'a/b'}", f"data.root={tmp_path / 'data'}")
    assert done.returncode == 2 and done.stderr.startswith("error: name=../../x: must be the name of one folder")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_source_that_is_not_there_is_named_before_torch_is_imported(tmp_path: Path) -> None:
    done = run("train.py", "data.source._target_=efpn.data.nothing.Here", f"data.root={tmp_path}")
    assert done.returncode == 2 and "error: data.source._target_=efpn.data.nothing.Here: no class" in done.stderr
