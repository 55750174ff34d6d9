"""Precision of the local models: INT8 if it is faster and costs no coverage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from rich.progress import Progress

from cachenet.models.build_config import BuildConfig, key
from cachenet.models.certify import traces
from cachenet.models.data.dataset import Dataset, LabelledFrames
from cachenet.models.export import quantise
from cachenet.models.export.classifier import ClassifierError
from cachenet.models.report import scores
from cachenet.models.train import teacher_runtime
from cachenet.models.train.local_models import LocalModel, model_path
from cachenet.shared.bundle.manifest import file_digest
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.engine import Session, first_line
from cachenet.shared.inference.image import Input

#: Maximum time of INT8 as a share of the float16 model's.
_MAX_TIME = 0.9
#: Maximum loss of coverage and of agreement that INT8 may cause.
_TOLERANCE = 0.01
#: Risk at which the coverage of precisions is compared.
_RISK = 0.01


def quantise_if_faster(
    config: BuildConfig,
    dataset: Dataset,
    made: Mapping[str, LocalModel],
    directory: Path,
    work: Path,
    progress: Progress,
) -> str:
    """Convert the local models in ``directory`` to INT8 if the config says so, or if it is better for the base model.

    All local models get the same precision, so that precision does not affect their selection. The decision is stored
    in ``work``, because measured times vary.

    Returns:
        Provenance text: the precision, and the comparison that decided.

    Raises:
        ClassifierError: The config asks for INT8, and the user's base model cannot be converted.
    """
    original, spec = "float16" if dataset.base is None else "as given", made["base"].input
    if config.precision == "float16":
        return original
    images = teacher_runtime.calibration_inputs(spec, dataset.tune)

    def quantised(name: str) -> Path:
        path = model_path(directory, name)
        graph = quantise.int8(onnx.load(str(path)), images)
        atomic_files.write(path.with_suffix(".int8"), graph.SerializeToString(deterministic=True))
        return path.with_suffix(".int8")

    before = model_path(directory, "base")
    try:
        after = quantised("base")
        stored = work / f"precision-{key(config.precision, file_digest(before), file_digest(after))}.txt"
        if not stored.exists():
            decision = _choose_precision(config, dataset.tune, spec, before, after, images[:1], original)
            atomic_files.write(stored, decision.encode())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the quantiser may fail in any way on a user's graph
        if dataset.base is None:
            raise
        if config.precision == "int8":
            why = f"the base model cannot be converted to INT8 ({first_line(error)}); leave out --precision"
            raise ClassifierError(why) from None
        before.with_suffix(".int8").unlink(missing_ok=True)
        return f"{original}; it cannot be converted to INT8"
    if (decision := stored.read_text()).startswith(original):
        after.unlink()
        return decision
    for name in progress.track([name for name in made if name != "full"], description="INT8"):
        (after if name == "base" else quantised(name)).replace(model_path(directory, name))
    return decision


def _choose_precision(
    config: BuildConfig,
    tune: LabelledFrames,
    spec: Input,
    before: Path,
    after: Path,
    image: npt.NDArray[np.float32],
    original: str,
) -> str:
    """Compare the base model ``before`` and ``after`` conversion; return the precision and the reason."""
    pictures, threads = traces.as_pictures(tune.images), torch.get_num_threads()

    def measure(path: Path) -> tuple[float, float]:
        logits = traces.run_model(Session(path, "cpu", threads), spec, pictures, tune.full_input)
        right = logits.argmax(1) == tune.full_labels
        return scores.coverage_at(_RISK, scores.uncertainty_scores(logits, 1.0)["probability"], right), float(
            right.mean()
        )

    (coverage, agreement), (int8_coverage, int8_agreement) = measure(before), measure(after)
    ratio = quantise.compare(before, after, image)
    better = (
        ratio.time <= _MAX_TIME and int8_coverage >= coverage - _TOLERANCE and int8_agreement >= agreement - _TOLERANCE
    )
    return (
        f"{'int8' if better or config.precision == 'int8' else original}; "
        f"int8 takes {ratio.time:.2f} of the time and {ratio.bytes:.2f} of the bytes, and answers "
        f"{int8_coverage:.1%} of frames at 1 % risk for {coverage:.1%}, and agrees on {int8_agreement:.1%} for "
        f"{agreement:.1%}"
    )
