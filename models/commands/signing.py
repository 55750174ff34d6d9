"""Commands for keys and signatures."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

import typer

from cachenet.models.commands.options import user_errors
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command import exit
from cachenet.shared.command.extras import require_signing

#: Number of rotations left at which each further one warns.
_FEW_ROTATIONS = 50
_BundleToSign = Annotated[Path, typer.Argument(help="Directory of the bundle.")]
_Keys = Annotated[Path, typer.Option(help="Directory of the keys; 'model-builder keys' makes it.")]


def keys(
    out: Annotated[Path, typer.Option(help="Directory for the keys.")] = Path("keys"),
) -> None:
    """Make the keys that sign bundles, and the root that devices trust.

    Example: model-builder keys --out keys
    """
    with user_errors(out):
        require_signing()
        from cachenet.models.signing import ROOT_FILE, KeyDirectory

        KeyDirectory.create(out, _now())
    typer.echo(f"Written: {out / 'root.key'} and {out / 'targets.key'}; keep them secret and offline")
    typer.echo(f"         {out / 'server.key'}, for the server (cloud-server run ... --key server.key)")
    typer.echo(f"         {out / ROOT_FILE}, for devices (edge-agent run ... --trusted-root {out / ROOT_FILE})")


def sign(bundle: _BundleToSign, keys: _Keys = Path("keys")) -> None:
    """Sign a bundle for a year, and permit the server to sign submodels for a week. Each call renews both.

    Example: model-builder sign build/mine --keys keys
    """
    _sign(bundle, keys, True)
    typer.echo(f"Signed: {bundle}")


def revoke(bundle: _BundleToSign, keys: _Keys = Path("keys")) -> None:
    """Sign a bundle, and withdraw the server's permission to sign submodels. Devices go back to the bundle's models.

    'model-builder sign' gives the permission again. Replace a stolen key with 'model-builder rotate'.

    Example: model-builder revoke build/mine --keys keys
    """
    _sign(bundle, keys, False)
    typer.echo(f"Signed: {bundle}, without submodels that the server signs")


def rotate(
    key: Annotated[Literal["root", "targets", "server"], typer.Argument(help="The key to replace.")],
    keys: _Keys = Path("keys"),
) -> None:
    """Replace a key. The new root, valid for a year, refuses what the former key signs.

    Example: model-builder rotate server --keys keys
    """
    with user_errors(keys):
        require_signing()
        from cachenet.models.signing import KeyDirectory

        KeyDirectory(keys).rotate(key, _now())
        left = KeyDirectory(keys).rotations_left
    if left <= _FEW_ROTATIONS:
        exit.say(
            "model-builder",
            f"{left} more keys can be replaced before devices refuse the root; make new keys with 'model-builder keys' "
            "in time, and give all devices the new root.json",
        )
    typer.echo(f"Written: {keys / f'{key}.key'} and a new root. Next: model-builder sign BUNDLE --keys {keys}")


def _sign(bundle: Path, keys: Path, permission: bool) -> None:
    with user_errors(bundle):
        require_signing()
        from cachenet.models.signing import KeyDirectory

        KeyDirectory(keys).sign(Bundle(bundle), _now(), permission)


def _now() -> datetime:
    return datetime.now(timezone.utc)
