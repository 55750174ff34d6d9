"""A Debian for aarch64 in a directory, whose programs run emulated by QEMU. Needs root, and nothing of the kernel's.

No package is configured, because its scripts would need ``binfmt_misc``: the files of all packages are unpacked. For
the same reason an emulated program cannot start another one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

#: Debian's release, and the packages that ``pip install`` needs.
_RELEASE, _PACKAGES = "bookworm", "python3,python3-pip"
_MIRROR = "http://deb.debian.org/debian"
_QEMU = "/usr/bin/qemu-aarch64-static"
#: Newest glibc for which wheels are taken: that of the release, 2.36.
_GLIBC = range(17, 37)
#: Part number of Arm in ``/proc/cpuinfo`` by processor. ONNX Runtime crashes on the lines of another architecture.
CPUS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
_CPUINFO = """processor\t: {number}
BogoMIPS\t: 108.00
Features\t: fp asimd
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 3

"""


class EmulationError(Exception):
    """A command failed; the message names it and has the end of what it printed."""


def make(root: Path) -> None:
    """Make the system in ``root``, unless it is there. Raises ``EmulationError``."""
    ready = root / "ready"
    if ready.exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    options = ("--arch=arm64", "--foreign", "--variant=minbase", f"--include={_PACKAGES}")
    _run("debootstrap", *options, _RELEASE, str(root), _MIRROR)
    for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
        _run("dpkg-deb", "--extract", str(package), str(root))
        package.unlink()
    shutil.copy(_QEMU, root / "usr/bin")
    ready.touch()


def install(root: Path, project: Path) -> None:
    """Install the project into the system, from wheels alone. Raises ``EmulationError``."""
    wheels = root / "wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    pip = (sys.executable, "-m", "pip")
    _run(*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(project))
    [own] = wheels.iterdir()
    version = (root / "usr/bin/python3").readlink().name.removeprefix("python")
    platforms = [word for minor in _GLIBC for word in ("--platform", f"manylinux_2_{minor}_aarch64")]
    constraints = ("--constraint", str(project / "constraints.txt"))
    _run(*pip, "download", "--only-binary", ":all:", "--python-version", version, *platforms,
         "--platform", "manylinux2014_aarch64", *constraints, "--dest", str(wheels), str(own))  # fmt: skip
    shutil.copy(project / "constraints.txt", wheels)
    options = (
        "--no-index",
        "--find-links",
        "/wheels",
        "--only-binary",
        ":all:",
        "--constraint",
        "/wheels/constraints.txt",
    )
    forced = ("--break-system-packages", "--root-user-action", "ignore", "--force-reinstall", "--no-compile")
    run(root, "cortex-a72", "-m", "pip", "install", "--quiet", *options, *forced, f"/wheels/{own.name}")


def run(root: Path, cpu: str, *arguments: str) -> str:
    """Run the system's Python on an emulated processor. Returns what it printed. Raises ``EmulationError``."""
    lines = "".join(_CPUINFO.format(number=number, part=CPUS[cpu]) for number in range(4))
    (root / "cpuinfo").write_text(lines)
    script = f"""
        mount --rbind /proc {root}/proc; mount --rbind /sys {root}/sys; mount --rbind /dev {root}/dev
        mount --bind {root}/cpuinfo {root}/proc/cpuinfo
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 OMP_NUM_THREADS=1 \\
            chroot {root} {_QEMU} -cpu "$@"
    """
    return _run("unshare", "--mount", "sh", "-ec", script, "sh", cpu, "/usr/bin/python3", *arguments)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        end = (done.stdout + done.stderr).strip()[-2000:]
        raise EmulationError(f"{' '.join(command[:4])} ... ended with {done.returncode}:\n{end}")
    return done.stdout
