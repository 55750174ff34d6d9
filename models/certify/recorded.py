"""Earlier names of ``models.certify.traces``, for modules that still import them."""

from cachenet.models.certify.traces import UNRELATED, Logits, Models, as_pictures, view
from cachenet.models.certify.traces import open_models as opened
from cachenet.models.certify.traces import record_pictures as film
from cachenet.models.certify.traces import record_streams as record
from cachenet.models.certify.traces import run_model as run
from cachenet.models.certify.traces import run_models as run_all

__all__ = ["UNRELATED", "Logits", "Models", "as_pictures", "film", "opened", "record", "run", "run_all", "view"]
