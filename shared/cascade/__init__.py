"""The decision core: answers a frame from the device where that is safe, and asks the full model otherwise.

Pure: no input or output, no model runtime, no clock and no hidden randomness. A device and a simulator run this code.

Terms
    full model      The reference. Its answer to a frame is that frame's answer, always.
    candidate       A label that may answer a frame: an earlier answer of the full model, or a local model's label.
    risk            Probability that the full model, asked now, would give another label than the candidate.
    hit, miss       The candidate of least risk answers; or the full model is asked.
    probe           One run of a local model, the base model or a submodel, on a frame.
    audit           A hit that the full model also answers, drawn at random.
    budget          Largest mean share of all answers that may disagree with the full model.

The path of one frame (``cascade.Cascade``: ``lookup``, then ``complete``)
    1. ``scene_change``     Has most of the picture changed for good? Then forget what depends on the scene.
    2. ``label_filter``     Prediction step of a hidden Markov model over the labels.
    3. ``frame_cache``      The full model's answers to recent frames. First candidate: that of the most similar frame.
       ``features``         The candidate as a row of 4 numbers from the picture alone (stage ``picture``).
       ``risk_model``       Bayesian logistic regression from features to risk; one for each stage, learned online.
       ``risk_estimator``   Owns the cache, the filter and the risk models.
    4. If the risk is far below the threshold, the frame is a hit without a probe. Otherwise:
    5. ``model_cache``      The base model probes. Candidates: its label, the newest answer, that of the most similar
                            frame, with 13 features each (stage ``base``). Then submodels probe, with 16 features
       ``probe_order``      (stage ``submodel``), by expected hits per second, while a probe is worth its time.
    6. ``distribution``     Do the scores fit the footage of the bundle? If not: a miss, later the answer ``unknown``.
    7. ``risk_budget``      A risk at or under the threshold is a hit. The threshold follows the budget (dual ascent).
    8. ``offload``          A miss goes to the server, or to a full model on the device where that is faster.
    9. The full model's answer labels all candidates of its frame. The risk models, the filter and the cache learn it.
       ``audits``           The same for audited hits, which also estimate the disagreement and raise alarms.

``types`` and ``frame`` hold the messages, ``spec`` the parameters, ``build_cascade`` the factory, ``reference`` the
measure of disagreement. ``replay`` runs recorded streams; ``circuit_breaker`` guards requests to the server.
``probability``, ``rates`` and ``sequential_tests`` are the mathematics.
"""
