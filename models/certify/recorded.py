"""Earlier names of ``models.certify.traces``, for modules that still import them."""

from cachenet.models.certify.traces import UNRELATED as UNRELATED
from cachenet.models.certify.traces import Logits as Logits
from cachenet.models.certify.traces import Models as Models
from cachenet.models.certify.traces import as_pictures as as_pictures
from cachenet.models.certify.traces import open_models as opened
from cachenet.models.certify.traces import record_pictures as film
from cachenet.models.certify.traces import record_streams as record
from cachenet.models.certify.traces import run_model as run
from cachenet.models.certify.traces import run_models as run_all
from cachenet.models.certify.traces import view as view

__all__ = ["UNRELATED", "Logits", "Models", "as_pictures", "film", "opened", "record", "run", "run_all", "view"]
