"""Builds: from any classifier to a bundle; resumable, and never half written."""

from __future__ import annotations

import io
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from rich.console import Console
from rich.progress import Progress
from typer.testing import CliRunner, Result

from cachenet.models.build import build
from cachenet.models.build_config import DEFAULT_SHARES, QUICK, BuildConfig
from cachenet.models.bundle_writer import TargetError
from cachenet.models.cli import app
from cachenet.models.data import sample
from cachenet.models.data.dataset import Dataset, collect
from cachenet.models.data.frames import find
from cachenet.models.export import quantise
from cachenet.models.export.classifier import load_classifier
from cachenet.models.export.quantise import PrecisionComparison
from cachenet.models.train import candidates, partitions
from cachenet.models.train.label import label_frames
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session

pytestmark = pytest.mark.slow

FULL = Path(__file__).parents[2] / "models" / "zoo" / "cifar10" / "full" / "1" / "model.onnx"
CONFIG = replace(QUICK, name="tiny", epochs=1, shares=(1 / 200,), precision="int8")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 pictures in a directory for each class."""
    directory, split = tmp_path_factory.mktemp("data"), sample.load()
    for number in range(300):
        folder = directory / sample.LABELS[split.labels[number]]
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{number:03}.png"), split.images[number][:, :, ::-1])
    return directory


@pytest.fixture(scope="module")
def dataset(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    classifier = load_classifier(FULL)
    frames = find(data)
    return collect(classifier, (frames, label_frames(classifier, frames, tmp_path_factory.mktemp("work"), 1)))


def make(dataset: Dataset, work: Path, out: Path, config: BuildConfig = CONFIG) -> Bundle:
    with Progress(console=Console(file=io.StringIO())) as progress:
        return build(config, dataset, work, out, progress)


def digests(bundle: Bundle) -> dict[str, object]:
    """A bundle without the times of its models, which differ between runs."""
    manifest = bundle.manifest
    files: dict[str, object] = {name: model.sha256 for name, model in manifest.models.items()}
    return files | {"priors": manifest.priors, "certificates": manifest.certificates}


@pytest.fixture(scope="module")
def whole(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("whole")
    return make(dataset, directory / "work", directory / "out")


def test_the_bundle_has_the_users_full_model(whole: Bundle) -> None:
    manifest = whole.manifest
    assert manifest.labels == sample.LABELS
    assert manifest.models["base"].macs <= manifest.models["full"].macs / 200
    batch = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    served = Session(whole.path("full"), "cpu").run(batch)
    np.testing.assert_allclose(served, Session(FULL, "cpu").run(batch), rtol=1e-4, atol=1e-4)
    properties = {entry.key: entry.value for entry in onnx.load(str(whole.path("base"))).metadata_props}
    assert properties["cachenet.labels"].split(",") == list(sample.LABELS)


def test_submodels_are_made_in_each_size(dataset: Dataset, tmp_path: Path) -> None:
    """General models of all sizes are in the bundle, and of submodels the best for their bytes."""
    config = replace(CONFIG, shares=(1 / 100, 1 / 200), submodels=3)
    manifest = make(dataset, tmp_path / "work", tmp_path / "out", config).manifest
    name = next(name for name in manifest.models if name.startswith("general-1in"))
    general, base = manifest.models[name], manifest.models["base"]
    assert (general.role, general.classes) == ("submodel", ())
    assert general.macs <= manifest.models["full"].macs / 200 < base.macs <= manifest.models["full"].macs / 100
    special = [name for name in manifest.submodels() if manifest.models[name].classes]
    assert len(special) == 3
    size = name.removeprefix("general")
    assert all(manifest.models[one].macs == (general if one.endswith(size) else base).macs for one in special)
    assert {f"size {size[1:]}", "kept"} <= set(manifest.provenance)
    assert manifest.provenance["kept"].endswith("MB")


def test_shares_with_the_same_network_are_one_size(dataset: Dataset) -> None:
    config = replace(CONFIG, shares=(1 / 13, 1 / 13.1, 1 / 100), submodels=0)
    assert len(candidates.propose(config, dataset, [])) == 2


def test_submodels_can_be_limited_to_some_sizes(dataset: Dataset) -> None:
    """General models have all sizes."""
    config = replace(CONFIG, shares=(1 / 100, 1 / 200), submodels=2)
    likely = [partitions.uniform_working_set(labels, 10) for labels in ((0, 1, 2), (3, 4, 5))]
    every = candidates.propose(config, dataset, likely)
    small = candidates.propose(replace(config, submodel_shares=(1 / 200,)), dataset, likely)
    assert [one.name for one in small if one.part is None] == [one.name for one in every if one.part is None]
    assert len({one.size for one in every if one.part is not None}) == 2
    assert {one.size for one in small if one.part is not None} == {small[1].size}


def test_more_epochs_give_more_views(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings reach the configuration; a submodel size that is not in --share is refused."""
    configs: list[BuildConfig] = []

    def stop(config: BuildConfig, *_: object) -> None:
        configs.append(config)
        raise TargetError("far enough")

    monkeypatch.setattr("cachenet.models.build.build", stop)
    command = ["build", "--full", str(FULL), "--data", str(data), "--out", str(tmp_path / "out")]
    command += ["--work", str(tmp_path / "work"), "--frame-step", "30"]
    for more in ([], ["--epochs", "120", "--set", "batch=256"]):
        CliRunner().invoke(app, [*command, *more])
    assert [(config.epochs, config.views, config.batch) for config in configs] == [(30, 4, 128), (120, 16, 256)]
    refused = CliRunner().invoke(app, [*command, "--share", "0.02", "--set", "submodel_share=0.01"])
    assert refused.exit_code == 2 and "submodel_share 0.01 is not in --share" in refused.output


def test_the_default_base_model_is_halved_until_it_takes_a_third_of_the_full_models_time(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([9.0, 6.0, 4.0, 2.0])  # the full model's, then those of ever smaller base models
    monkeypatch.setattr(candidates.cost, "run_seconds", lambda *_: [next(times)])
    config = replace(CONFIG, shares=DEFAULT_SHARES)
    assert candidates.affordable_shares(config, dataset, tmp_path) == (1 / 13 / 4,)
    assert candidates.affordable_shares(config, dataset, tmp_path) == (1 / 13 / 4,), "the result is cached"
    assert candidates.affordable_shares(replace(CONFIG, shares=(0.3,)), dataset, tmp_path) == (0.3,), (
        "a share of the user stays"
    )


def test_the_precision_is_decided_once_for_all_resumed_builds(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured times vary, but a resumed build must give the same bundle."""
    config = replace(CONFIG, precision="auto", submodels=0)
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.89))
    first = make(dataset, tmp_path / "work", tmp_path / "a", config)
    monkeypatch.setattr(quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.91))
    assert digests(make(dataset, tmp_path / "work", tmp_path / "b", config)) == digests(first)
    other = make(dataset, tmp_path / "other", tmp_path / "c", config)
    assert other.manifest.models["base"].sha256 != first.manifest.models["base"].sha256
    assert other.manifest.provenance["precision"].startswith("float16")


@pytest.mark.usefixtures("no_recordings")
def test_a_build_interrupted_at_every_stage_gives_the_same_bundle(
    dataset: Dataset, whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is interrupted after it has written one more result."""
    replace_file, interrupted = Path.replace, 0

    def replaced(path: Path, target: Path) -> Path:
        done = replace_file(path, target)
        if path.suffix == ".part" and tmp_path / "work" in path.parents:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Path, "replace", replaced)
    while True:
        try:
            resumed = make(dataset, tmp_path / "work", tmp_path / "out")
            break
        except KeyboardInterrupt:
            interrupted += 1
            assert not (tmp_path / "out").exists()
    assert interrupted >= 4, "teacher, base, submodels and certificates"
    assert digests(resumed) == digests(whole)


MODELS_AND_MANIFEST = ("model.onnx", "model.int8", "golden.msgpack", "bundle.json")


def test_another_number_of_submodels_trains_nothing_again(
    dataset: Dataset, whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only results that depend on the number are made again."""
    shutil.copytree(whole.directory.parent / "work", tmp_path / "work")
    made = []
    write = atomic_files.write

    def written(path: Path, data: bytes | memoryview) -> None:
        made.append(path.name.split("-")[0])
        write(path, data)

    monkeypatch.setattr(atomic_files, "write", written)
    fewer = make(dataset, tmp_path / "work", tmp_path / "out", replace(CONFIG, submodels=1))
    assert [name for name in made if name not in MODELS_AND_MANIFEST] == ["certified"]
    assert fewer.manifest.models["base"].sha256 == whole.manifest.models["base"].sha256
    assert len(fewer.manifest.submodels()) == 1


def test_a_directory_without_a_bundle_is_never_replaced(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"dear")
    with pytest.raises(TargetError, match="exists and is no bundle"):
        make(dataset, tmp_path / "work", tmp_path / "photos")
    assert (tmp_path / "photos" / "me.jpg").read_bytes() == b"dear"


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["build", *map(str, arguments)])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work directory that several builds share."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def scenes(work: Path) -> Path:
    path = work / "scenes.json"
    path.write_text('[["cat", "dog"], ["ship", "truck", "airplane"]]')
    return path


def test_settings_come_from_flags_over_assignments_over_the_file(data: Path, tmp_path: Path) -> None:
    (tmp_path / "build.toml").write_text('full = "a.onnx"\nepochs = 40\nbatch = 64\nshare = [0.02, 0.01]\n')
    sources = ["--config", tmp_path / "build.toml", "--set", "epochs=50", "--set", "batch=32", "--epochs", "60"]
    done = run("--data", data, "--out", tmp_path / "out", *sources, "--print-config")
    assert done.exit_code == 0, done.output
    assert {'full = "a.onnx"', "epochs = 60", "batch = 32", "share = [0.02,0.01]"} <= set(done.stdout.splitlines())
    assert "--every no longer exists: use --frame-step" in run("--every", "2").stderr
    assert "--full is missing" in run("--data", data, "--out", tmp_path / "out").stderr


def test_the_command_builds_a_bundle_and_prints_its_models(
    data: Path, work: Path, scenes: Path, tmp_path: Path
) -> None:
    flags = ["--full", FULL, "--data", data, "--work", work, "--out", tmp_path / "My Bundle", "--quick"]
    done = run(*flags, "--set", f"scenes={scenes}", "--share", "0.005", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["name"] == "my-bundle"
    assert Bundle(tmp_path / "My Bundle").manifest.only("full") == "full"


def test_a_bundle_can_be_built_from_a_region_of_the_frames_and_updated_from_the_same(
    data: Path, work: Path, tmp_path: Path
) -> None:
    """The pictures are pasted into the left halves of wider ones."""
    wide = tmp_path / "wide"
    for file in data.rglob("*.png"):
        picture = cv2.imread(str(file))
        (wide / file.parent.name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(wide / file.parent.name / file.name), np.hstack([picture, 255 - picture]))
    bundles = []
    for source, region in ((data, ()), (wide, ("--region", "0,0,0.5,1"))):
        out = tmp_path / f"out{len(bundles)}"
        flags = ["--full", FULL, "--data", source, "--work", work, "--out", out, "--quick", "--share", "0.005"]
        done = run(*flags, "--submodels", "0", *region)
        assert done.exit_code == 0, done.output
        bundles.append(Bundle(out))
    without, with_region = bundles
    assert with_region.manifest.provenance["region"] == "0,0,0.5,1"
    assert with_region.manifest.provenance["frames"] == without.manifest.provenance["frames"]
    assert with_region.manifest.priors == without.manifest.priors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--set", "scenes={scenes}"], "the model has no label 'unicorn'"),
        (["--set", "embedding=nowhere"], "no tensor 'nowhere'"),
        (["--set", "least=0.1"], "no longer exists: use min_coverage"),
        (["--precision", "int4"], "choose of auto, float16, int8"),
        (["--data", "{few}"], "20 are needed"),
        (["--data", "{empty}"], "holds no pictures"),
        (["--full", "{text}"], "is no ONNX file"),
        (["--held-out", "nowhere"], "nowhere is not there"),
        (["--out", "{few}"], "is no bundle; name a new directory"),
        (["--region", "0.5,0,0.6,1"], "'0.5,0,0.6,1' is no region"),
    ],
)
def test_invalid_input_is_one_line(data: Path, tmp_path: Path, flags: list[str], message: str) -> None:
    (tmp_path / "scenes").write_text('[["cat", "unicorn"]]')
    (tmp_path / "text").write_text("not a model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "few" / f"{number}.png"), np.zeros((9, 9, 3), np.uint8))
    usual = {"--full": str(FULL), "--data": str(data), "--out": str(tmp_path / "out"), "--work": str(tmp_path / "w")}
    usual[flags[0]] = flags[1].replace("{", f"{tmp_path}/").replace("}", "")
    done = run("--quick", *(word for pair in usual.items() for word in pair))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount a file system")
def test_a_full_disk_is_one_line(data: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=2500k none {small} 2>/dev/null") != 0:
        pytest.skip("no file system can be mounted here")
    try:
        flags = ["--full", FULL, "--data", data, "--work", small, "--out", tmp_path / "out", "--quick"]
        done = run(*flags)
        assert done.exit_code == 2, done.output
        assert "No space left" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.output
        assert not (tmp_path / "out").exists()
    finally:
        os.system(f"umount {small}")
