"""The version of this software, from the installed distribution."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("cachenet")
except PackageNotFoundError:  # a clone without an installation
    VERSION = "0+unknown"
