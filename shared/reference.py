"""The reference: what a false hit is told by. The full model over a window of frames, with a context of its own.

It begins neutral and hears only the full model, so a cache that has talked itself into a mistake cannot confirm itself.
And it hears the window to its end before it judges: a label that the next frames contradict is the reference's own
mistake, and none of the device's (L. Rabiner, "A tutorial on hidden Markov models", Proceedings of the IEEE 1989,
section III: forward and backward).
"""

from __future__ import annotations

from collections.abc import Sequence

from shared.context import Context
from shared.filter import Filter, Word
from shared.habits import ContextParameters, Habits

#: Frames of a window.
WINDOW = 16


def reference(words: Sequence[Word], parameters: ContextParameters) -> list[int]:
    """The labels of a window of frames to which the full model said ``words``."""
    classes = len(words[0].likelihood)
    context = Context(classes, parameters)
    for index, word in enumerate(words):
        context.advance(index, word.key)
        context.learn(context.observe(word).label)
    prior = context.working_set()  # what the window shows at all

    filter_ = Filter(classes, parameters, Habits(parameters))
    before, after = filter_.begin(prior), filter_.begin(prior)
    heard, labels = [], []
    for word in words:
        before = filter_.hear(filter_.arrive(before, word.key, prior), word)
        heard.append(before)
    for word, before in zip(reversed(words), reversed(heard), strict=True):
        after = filter_.arrive(after, word.key, prior)
        labels.append(int(filter_.join(before, after, prior).argmax()))
        after = filter_.hear(after, word)
    return labels[::-1]
