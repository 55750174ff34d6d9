"""The decision core of detectors: answers a frame with objects, from the device where that is safe.

Like ``cachenet.shared.cascade``, whose terms apply, it does no input or output. The models give boxes instead of
labels, and an answer is a set of objects; none is an answer as good as any.

Terms
    detection       A box with a label and a score.
    track           An object over several frames.
    motion          Displacement of a box between two frames, measured by the caller (optical flow).
    candidate       A track of the present frame.
    risk            Of a candidate: probability that the full model, asked now, would not find it here.
    object error    Of an answer: 1 - F1 of its objects against the full model's of that frame, at an intersection over
                    union of 0.5 and equal label; 0 where both are empty. The budget is its mean over all frames.
    streaming F1    F1 of the counts of all frames, each answer as it was at the moment of its frame.
    stage           What an answer rests on: ``carried`` tracks, or also the detections of ``base`` or ``submodel``.
    level           What gave an answer: ``frames`` (nothing moved, or nothing is there), ``tracks`` (carried tracks),
                    ``submodels``, ``base``, ``full``, ``cloud`` or ``fallback``.
    floor           Expected object error while questions are as frequent as they can be.

The path of one frame (``scene_cascade.SceneCascade``: ``lookup``, then ``complete``)
    1. ``history``          Carries the tracks of the frame before by their motion (``tracks.carry``).
    2. ``scene_features``   Features of each candidate, and of the objects that no candidate covers.
       ``scene_estimator``  Two risk models a stage, learned online, and the calibration of the expected error.
       ``expected_error``   Which candidates to answer, and the expected object error of that answer.
    3. If the expected error is far below the threshold, the frame is a hit without a detector's run. Otherwise:
    4. A submodel or the base model runs. Its detections update the tracks by a Kalman filter (``tracks.observe``).
    5. An expected error at or under the threshold is a hit; so is a frame while a question is on its way. Otherwise
       the full model is asked. In asynchronous mode the device answers at once, as ``fallback``.
    6. The full model's objects confirm, deny and begin tracks at their own frame (``tracks.confirm``). ``history``
       computes the frames after it again, so a late reply counts as if it had come in time.
       The risk models learn which candidates were right.
    7. The threshold follows the budget (``risk_budget``). Audits and scene changes are those of classifiers.

``types`` and ``detections`` hold the messages, ``spec`` the parameters, ``build_cascade`` the factory. ``scene_replay``
runs recorded streams and fits priors.
"""
