"""The decision core: answers a frame from the device where that is safe, and asks the full model otherwise.

No input or output, model runtime, clock or hidden randomness: its state depends only on its calls. A device and a
simulator run this code.

Terms
    stream          The frames of one camera, in order.
    bundle          The files of a full model, a base model and submodels, with their priors and calibration.
    caller          The program that drives the cascade: it has the clock, the models and the network.
    full model      The reference. Its answer to a frame is that frame's answer, always.
    base model      A small local model of all labels. A submodel is another small one, often of a part of the labels.
    level           What gave an answer: ``frames``, ``submodels``, ``base``, ``full``, ``cloud`` or ``fallback``.
    stage           What a lookup has used so far: ``picture``, ``base`` or ``submodel``. Each has its own risk model.
    candidate       A label that may answer a frame: an earlier answer of the full model, or a local model's label.
    held, recalled  The full model's newest answer; its answer to the most similar stored frame.
    risk            Probability that the full model, asked now, would give another label than the candidate.
    hit, miss       The candidate of least risk answers; or the full model is asked.
    threshold       Largest risk of a hit at present.
    fallback        The candidate of least risk, as the answer to a miss without a reply in time.
    probe           One run of a local model, the base model or a submodel, on a frame.
    audit           A hit that the full model also answers, drawn at random.
    unknown         The answer to a stream that is out of distribution: a hit without a label. It costs no budget.
    disagreement    An answer is neither the full model's label of its frame nor that of at least 5 of the 9 frames
                    centred on it. The budget and the audits use only the label of the frame itself, which is stricter.
    budget          Largest mean share of hits and full answers that may disagree; fallbacks do not count.

The path of one frame (``cascade.Cascade``: ``lookup``, then ``complete``)
    1. ``scene_change``     Has most of the picture changed for good? Then forget what depends on the scene.
    2. ``label_filter``     Prediction step of a hidden Markov model over the labels.
    3. ``frame_cache``      The full model's answers in this scene. First candidate: the recalled answer.
       ``features``         Its 4 features, from the picture and the filter (stage ``picture``).
       ``risk_model``       Bayesian logistic regression from features to risk; one for each stage, learned online.
       ``risk_estimator``   Owns the cache, the filter and the risk models.
    4. If the risk is far below the threshold, the frame is a hit without a probe. Otherwise:
    5. ``model_cache``      The base model probes (stage ``base``). Candidates: its label, the held and the recalled
                            answer, with 13 features each. While the least risk is over the threshold,
       ``probe_order``      up to two submodels probe (stage ``submodel``, 16 features), by expected hits per second.
    6. ``distribution``     Do the scores fit the footage of the bundle? If not: misses; after 200 in a row hits with
                            the answer ``unknown``.
    7. ``risk_budget``      A risk at or under the threshold is a hit. The threshold follows the budget (dual ascent).
    8. ``offload``          A miss goes to the server, or to a full model on the device where that is faster.
    9. The full model's answer marks each candidate of its frame right or wrong. The risk models, the filter and the
       cache learn it.
       ``audits``           The same for audited hits. They also estimate the share of hits with another label, and
                            raise alarms.

``types`` and ``frame`` hold the messages, ``tally`` the counters, ``spec`` the parameters, ``build_cascade`` the
factory, ``reference`` the disagreement of a finished run. ``replay`` runs recorded streams. ``probability``, ``rates``
and ``sequential_tests`` are the mathematics. For callers only: ``circuit_breaker``, ``AnytimeUpperBound``,
``fit_temperature`` and ``ModelCache.recommend``.
"""
