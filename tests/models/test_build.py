"""Building: any classifier in, a bundle out, that a device and a server take; resumed, refused, never half there."""

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
from cachenet.models.bundle_writer import PlaceError
from cachenet.models.cli import app
from cachenet.models.data import sample
from cachenet.models.data.dataset import Dataset, gather
from cachenet.models.data.frames import find
from cachenet.models.export.classifier import understand
from cachenet.models.export.quantise import PrecisionComparison
from cachenet.models.train import candidates, partitions
from cachenet.models.train.label import teach
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session

pytestmark = pytest.mark.slow

FULL = Path(__file__).parents[2] / "models" / "zoo" / "cifar10" / "full" / "1" / "model.onnx"
PLAN = replace(QUICK, name="tiny", epochs=1, shares=(1 / 200,), precision="int8")


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
def material(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    classifier = understand(FULL)
    frames = find(data)
    return gather(classifier, (frames, teach(classifier, frames, tmp_path_factory.mktemp("work"), 2)))


def make(material: Dataset, work: Path, out: Path, plan: BuildConfig = PLAN) -> Bundle:
    with Progress(console=Console(file=io.StringIO())) as progress:
        return build(plan, material, work, out, progress)


def digests(bundle: Bundle) -> dict[str, object]:
    """All of a bundle but how long its models take, which no two runs agree on."""
    manifest = bundle.manifest
    files: dict[str, object] = {name: model.sha256 for name, model in manifest.models.items()}
    return files | {"priors": manifest.priors, "certificates": manifest.certificates}


@pytest.fixture(scope="module")
def whole(material: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    directory = tmp_path_factory.mktemp("whole")
    return make(material, directory / "work", directory / "out")


def test_the_bundle_serves_the_model_that_was_given(whole: Bundle) -> None:
    manifest = whole.manifest
    assert manifest.labels == sample.LABELS
    assert manifest.models["base"].macs <= manifest.models["full"].macs / 200
    batch = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    served = Session(whole.path("full"), "cpu").run(batch)
    np.testing.assert_allclose(served, Session(FULL, "cpu").run(batch), rtol=1e-4, atol=1e-4)
    properties = {entry.key: entry.value for entry in onnx.load(str(whole.path("base"))).metadata_props}
    assert properties["cachenet.labels"].split(",") == list(sample.LABELS)


def test_submodels_are_selected_from_all_sizes(material: Dataset, tmp_path: Path) -> None:
    """The general models of every size go in; of the rest the best for their bytes, as many as were asked for."""
    plan = replace(PLAN, shares=(1 / 100, 1 / 200), submodels=3)
    manifest = make(material, tmp_path / "work", tmp_path / "out", plan).manifest
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


def test_shares_that_come_to_one_network_are_one_size(material: Dataset) -> None:
    plan = replace(PLAN, shares=(1 / 13, 1 / 13.1, 1 / 100), submodels=0)
    assert len(candidates.propose(plan, material, [])) == 2


def test_submodels_are_made_in_the_sizes_that_are_named(material: Dataset) -> None:
    """All general models are there; what is special comes in one size alone, or in every one where none is named."""
    plan = replace(PLAN, shares=(1 / 100, 1 / 200), submodels=2)
    likely = [partitions.together(labels, 10) for labels in ((0, 1, 2), (3, 4, 5))]
    every = candidates.propose(plan, material, likely)
    small = candidates.propose(replace(plan, special=(1 / 200,)), material, likely)
    assert [one.name for one in small if one.part is None] == [one.name for one in every if one.part is None]
    assert len({one.size for one in every if one.part is not None}) == 2
    assert {one.size for one in small if one.part is not None} == {small[1].size}


def test_longer_training_hears_more_views(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What --epochs and --batch say reaches the plan; a size that is made nowhere is refused."""
    plans: list[BuildConfig] = []

    def stop(plan: BuildConfig, *_: object) -> None:
        plans.append(plan)
        raise PlaceError("far enough")

    monkeypatch.setattr("cachenet.models.build.build", stop)
    command = ["build", "--full", str(FULL), "--data", str(data), "--out", str(tmp_path / "out")]
    command += ["--work", str(tmp_path / "work"), "--every", "30"]
    for more in ([], ["--epochs", "120", "--batch", "256"]):
        CliRunner().invoke(app, [*command, *more])
    assert [(plan.epochs, plan.views, plan.batch) for plan in plans] == [(30, 4, 128), (120, 16, 256)]
    refused = CliRunner().invoke(app, [*command, "--share", "0.02", "--submodel-share", "0.01"])
    assert refused.exit_code == 2 and "--submodel-share 0.01 is none of --share" in refused.output


def test_a_base_model_is_halved_until_it_takes_a_third_of_the_full_models_time_and_that_is_kept(
    material: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([9.0, 6.0, 4.0, 2.0])  # the full model's, then those of ever smaller base models
    monkeypatch.setattr(candidates.cost, "seconds", lambda *_: [next(times)])
    plan = replace(PLAN, shares=DEFAULT_SHARES)
    assert candidates.quick_shares(plan, material, tmp_path) == (1 / 13 / 4,)
    assert candidates.quick_shares(plan, material, tmp_path) == (1 / 13 / 4,), "nothing is timed again"
    assert candidates.quick_shares(replace(PLAN, shares=(0.3,)), material, tmp_path) == (0.3,), "as the user says"


def test_the_precision_is_decided_once(material: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine does not measure the same twice, and a resumed build must end as it would have."""
    plan = replace(PLAN, precision="auto", submodels=0)
    monkeypatch.setattr(candidates.quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.89))
    first = make(material, tmp_path / "work", tmp_path / "a", plan)
    monkeypatch.setattr(candidates.quantise, "compare", lambda *_: PrecisionComparison(0.5, 0.91))
    assert digests(make(material, tmp_path / "work", tmp_path / "b", plan)) == digests(first)
    other = make(material, tmp_path / "other", tmp_path / "c", plan)
    assert other.manifest.models["base"].sha256 != first.manifest.models["base"].sha256
    assert other.manifest.provenance["precision"].startswith("float16")


def test_interrupted_at_every_stage_it_ends_as_an_uninterrupted_one(
    material: Dataset, whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each run is killed when it has put one more result in its place."""
    replace_file, interrupted = Path.replace, 0

    def replaced(path: Path, target: Path) -> Path:
        done = replace_file(path, target)
        if path.suffix == ".part" and tmp_path / "work" in path.parents:
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(Path, "replace", replaced)
    while True:
        try:
            resumed = make(material, tmp_path / "work", tmp_path / "out")
            break
        except KeyboardInterrupt:
            interrupted += 1
            assert not (tmp_path / "out").exists()
    assert interrupted >= 4, "teacher, base, submodels and certificates"
    assert digests(resumed) == digests(whole)


MODELS_AND_MANIFEST = ("model.onnx", "model.int8", "golden.msgpack", "bundle.json")


def test_another_number_of_submodels_trains_nothing_again(
    material: Dataset, whole: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what is kept, only what comes from the number is made anew."""
    shutil.copytree(whole.directory.parent / "work", tmp_path / "work")
    made = []
    write = atomic_files.write

    def written(path: Path, data: bytes | memoryview) -> None:
        made.append(path.name.split("-")[0])
        write(path, data)

    monkeypatch.setattr(atomic_files, "write", written)
    fewer = make(material, tmp_path / "work", tmp_path / "out", replace(PLAN, submodels=1))
    assert [name for name in made if name not in MODELS_AND_MANIFEST] == ["certified"]
    assert fewer.manifest.models["base"].sha256 == whole.manifest.models["base"].sha256
    assert len(fewer.manifest.submodels()) == 1


def test_a_directory_that_is_no_bundle_is_never_replaced(material: Dataset, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_bytes(b"dear")
    with pytest.raises(PlaceError, match="is there and is no bundle"):
        make(material, tmp_path / "work", tmp_path / "photos")
    assert (tmp_path / "photos" / "me.jpg").read_bytes() == b"dear"


def run(*given: str | Path) -> Result:
    return CliRunner().invoke(app, ["build", *map(str, given)])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of builds with the same frames, which find there what those before them have made."""
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def scenes(work: Path) -> Path:
    path = work / "scenes.json"
    path.write_text('[["cat", "dog"], ["ship", "truck", "airplane"]]')
    return path


def test_the_command_builds_and_says_what_is_in_it(data: Path, work: Path, scenes: Path, tmp_path: Path) -> None:
    given = ["--full", FULL, "--data", data, "--work", work, "--out", tmp_path / "My Bundle", "--quick"]
    done = run(*given, "--scenes", scenes, "--share", "0.005", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["name"] == "my-bundle"
    assert Bundle(tmp_path / "My Bundle").manifest.only("full") == "full"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--scenes", "{scenes}"], "the model has no label 'unicorn'"),
        (["--data", "{few}"], "20 are needed"),
        (["--data", "{empty}"], "holds no pictures"),
        (["--full", "{text}"], "is no ONNX file"),
        (["--held-out", "nowhere"], "nowhere is not there"),
        (["--out", "{few}"], "is no bundle; name a new directory"),
    ],
)
def test_what_cannot_be_built_from_is_one_clear_line(data: Path, tmp_path: Path, given: list[str], told: str) -> None:
    (tmp_path / "scenes").write_text('[["cat", "unicorn"]]')
    (tmp_path / "text").write_text("not a model")
    (tmp_path / "empty").mkdir()
    (tmp_path / "few").mkdir()
    for number in range(3):
        cv2.imwrite(str(tmp_path / "few" / f"{number}.png"), np.zeros((9, 9, 3), np.uint8))
    usual = {"--full": str(FULL), "--data": str(data), "--out": str(tmp_path / "out"), "--work": str(tmp_path / "w")}
    usual[given[0]] = given[1].replace("{", f"{tmp_path}/").replace("}", "")
    done = run("--quick", *(word for pair in usual.items() for word in pair))
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert told in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file system of its own")
def test_a_full_disk_is_one_clear_line_and_nothing_is_trusted_later(data: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.system(f"mount -t tmpfs -o size=2500k none {small} 2>/dev/null") != 0:
        pytest.skip("no file system of its own can be had here")
    try:
        given = ["--full", FULL, "--data", data, "--work", small, "--out", tmp_path / "out", "--quick"]
        done = run(*given)
        assert done.exit_code == 2, done.output
        assert "No space left" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.output
        assert not (tmp_path / "out").exists()
    finally:
        os.system(f"umount {small}")


def test_what_was_built_with_a_key_is_signed_and_show_checks_it(
    data: Path, work: Path, scenes: Path, whole: Bundle, tmp_path: Path
) -> None:
    runner = CliRunner()
    keys = tmp_path / "keys"
    assert runner.invoke(app, ["keys", "--out", str(keys)]).exit_code == 0
    assert "is there already" in (again := runner.invoke(app, ["keys", "--out", str(keys)])).stderr
    assert again.exit_code == 2
    given = ["--full", FULL, "--data", data, "--work", work, "--out", tmp_path / "My Bundle", "--quick"]
    done = run(*given, "--scenes", scenes, "--share", "0.005", "--key", keys / "bundle.key")
    assert done.exit_code == 0, done.stderr
    trusting = ["--trusted-key", str(keys / "bundle.pub")]
    assert runner.invoke(app, ["show", str(tmp_path / "My Bundle"), *trusting]).exit_code == 0

    bare = tmp_path / "bare"
    shutil.copytree(whole.directory, bare)
    refused = runner.invoke(app, ["show", str(bare), *trusting])
    assert (refused.exit_code, "no signature" in refused.stderr) == (2, True)
    assert runner.invoke(app, ["sign", str(bare), "--key", str(keys / "bundle.key")]).exit_code == 0
    assert runner.invoke(app, ["show", str(bare), *trusting]).exit_code == 0
    (bare / "bundle.json").write_bytes((bare / "bundle.json").read_bytes() + b"\n")
    refused = runner.invoke(app, ["show", str(bare), *trusting])
    assert (refused.exit_code, "another signature" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", ["build", "sign"])
def test_a_key_that_is_none_is_refused_before_the_work(data: Path, whole: Bundle, tmp_path: Path, command: str) -> None:
    (tmp_path / "key").write_text("no key")
    flags = {"build": ["--full", FULL, "--data", data, "--out", tmp_path / "out"], "sign": [whole.directory]}[command]
    done = CliRunner().invoke(app, [command, *map(str, flags), "--key", str(tmp_path / "key")])
    assert done.exit_code == 2
    assert done.stderr.count("\n") == 1 and "no Ed25519 private key" in done.stderr
    assert not (tmp_path / "out").exists()
