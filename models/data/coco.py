"""The classes of COCO, the data set that most detectors are trained on (T. Lin et al., arXiv 1405.0312)."""

from __future__ import annotations

#: Names in the order of detectors with 80 classes.
NAMES: tuple[str, ...] = tuple(
    name.strip()
    for name in """
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop,
    mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors,
    teddy bear, hair drier, toothbrush
    """.split(",")  # noqa: SIM905
)
#: Numbers from 1 to 90 that the data set does not use.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
#: Number of each name in the data set, 1 to 90.
NUMBERS: tuple[int, ...] = tuple(number for number in range(1, 91) if number not in _UNUSED)
