"""Earlier names of ``models.certify.traces``, for modules that still import them."""

from cachenet.models.certify.traces import Labels, Logits
from cachenet.models.certify.traces import ModelFamily as Family
from cachenet.models.certify.traces import RecordedStream as Recorded
from cachenet.models.certify.traces import device_cascade as cascade
from cachenet.models.certify.traces import family_of as family
from cachenet.models.certify.traces import replay as run
from cachenet.models.certify.traces import same_size_family as of_one_size

__all__ = ["Family", "Labels", "Logits", "Recorded", "cascade", "family", "of_one_size", "run"]
