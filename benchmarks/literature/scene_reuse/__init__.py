"""Scene-keyed reuse of submodels (MOCHA, arXiv 2505.00745): the device takes, of all submodels that the fleet ever
trained, the one whose scene key is nearest; a new one is trained only if none fits."""

from benchmarks.literature.row import Row
from benchmarks.literature.scene_reuse.measure import measure

ROW = Row(
    "35.5 times less response delay, 3 times less retraining (MOCHA, arXiv 2505.00745; three tasks of mobile video)",
    measure,
)
