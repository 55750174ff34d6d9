"""Remarks on a finished bundle, for the user who is going to deploy it."""

from __future__ import annotations

from cachenet.models.certify.blocks import FEWEST, frames_of
from cachenet.shared.bundle.manifest import Certificate, Manifest
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT

#: Share of the full model's time above which a base model saves little.
SLOW = 1 / 3


def remarks(manifest: Manifest) -> list[str]:
    """Remarks on the certificate for the default budget, and on the base model; one line each."""
    found = []
    certificate = manifest.certificate(MAX_DISAGREEMENT)
    if certificate is not None and not certificate.holds:
        found.append(uncertified(certificate))
    if (overfitted := manifest.provenance.get("overfitted")) is not None:
        found.append(f"Overfitted: {overfitted}.")
    if slow := slow_base(manifest):
        found.append(slow)
    return found


def uncertified(certificate: Certificate) -> str:
    """Why a budget is not certified, and how many more frames are needed."""
    measured = (
        f"measured {certificate.disagreement:.2%} disagreement, {certificate.asked:.0%} asked, "
        f"on {certificate.blocks} block{'s' if certificate.blocks != 1 else ''} of frames"
    )
    end = "The bundle starts from its priors, and devices audit."
    missing = frames_of(max(0, certificate.blocks_needed - certificate.blocks))
    more = f"some {_round(missing)} more certification frames are needed"
    if certificate.blocks < FEWEST:
        return f"Too few frames to certify: {measured}; {more if missing else 'it is over the budget'}. {end}"
    budget = f"{certificate.max_disagreement:.1%}"
    if not missing:
        return f"Not certified for a budget of {budget}: {measured}, and more frames would not help. {end}"
    bound = f"which shows at most {certificate.at_most:.1%}"
    return f"Not certified for a budget of {budget}: {measured}, {bound}; {more}. {end}"


def slow_base(manifest: Manifest) -> str:
    """A warning about a base model that takes too much of the full model's time; empty for any other."""
    base, full = (manifest.models[manifest.only(role)].milliseconds for role in ("base", "full"))
    if full <= 0 or base <= SLOW * full:
        return ""
    remedy = "Build with a smaller --share, or give a faster --base."
    if manifest.task == "detection":
        remedy = "Give a faster --base."
    return (
        f"The base model takes {base:.2f} ms and the full model {full:.2f} ms on this machine: over a third, so a hit "
        f"saves little. {remedy}"
    )


def _round(frames: int) -> str:
    """Rounded up to two digits."""
    digit = 10 ** max(0, len(str(frames)) - 2)
    return f"{-(-frames // digit) * digit:,}"
