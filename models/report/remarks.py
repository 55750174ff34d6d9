"""What to know of a finished bundle before it is deployed, a line each."""

from __future__ import annotations

from cachenet.models.certify.blocks import FEWEST, frames_of
from cachenet.shared.bundle.manifest import Certificate, Manifest
from cachenet.shared.cascade.spec import MAX_DISAGREEMENT

#: Share of the full model's time from which a base model hardly pays.
SLOW = 1 / 3


def remarks(manifest: Manifest) -> list[str]:
    """Of certification, at the default budget, and of the base model."""
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
    """Why a budget is not certified, and how much more footage would do."""
    measured = (
        f"measured {certificate.disagreement:.2%} disagreement, {certificate.asked:.0%} asked, "
        f"on {certificate.blocks} blocks of frames"
    )
    so_far = "The bundle starts from its priors, and devices audit."
    missing = frames_of(max(0, certificate.blocks_needed - certificate.blocks))
    if certificate.blocks < FEWEST:
        more = f"some {_round(missing)} more frames to prove with are needed" if missing else "it is over the budget"
        return f"Not certifiable from so little: {measured}; {more}. {so_far}"
    budget = f"{certificate.max_disagreement:.1%}"
    if not missing:
        return f"Not certified for a budget of {budget}: {measured}, and more frames would not help. {so_far}"
    return (
        f"Not certified for a budget of {budget}: {measured}, which shows at most {certificate.at_most:.1%}; some "
        f"{_round(missing)} more frames to prove with are needed. {so_far}"
    )


def slow_base(manifest: Manifest) -> str:
    """That the base model takes too much of the full model's time; empty where it does not."""
    base, full = (manifest.models[manifest.only(role)].milliseconds for role in ("base", "full"))
    if full <= 0 or base <= SLOW * full:
        return ""
    return (
        f"The base model takes {base:.2f} ms and the full model {full:.2f} ms on this machine: over a third, so a hit "
        "saves little. Build with a smaller --share, or give a quicker --base."
    )


def _round(frames: int) -> str:
    """To two digits, upwards, for people."""
    digit = 10 ** max(0, len(str(frames)) - 2)
    return f"{-(-frames // digit) * digit:,}"
