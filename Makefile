# The only set-up there is. Everything goes into .venv at the root; what is installed and up to date is left alone.
# Another Python: make PYTHON=/path/to/python ...     Only some tests: make test ARGS='tests/shared -k link'
# In one process, as a debugger needs it: make test WORKERS=0

PYTHON ?= $(firstword $(foreach candidate,python3.11 python3,$(shell \
	$(candidate) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && echo $(candidate))))
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --constraint constraints.txt
PINS := pyproject.toml constraints.txt
# Tests wait for processes and networks half of the time: two workers take turns. A module's tests stay together,
# and modules run in the order of tests/conftest.py, the long ones first.
WORKERS := 2
PYTEST := $(VENV)/bin/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder
# Debian puts mosquitto where only root's PATH looks, and its clients into a package of their own.
FIND_MOSQUITTO := { PATH="$$PATH:/usr/sbin:/usr/local/sbin" command -v mosquitto && command -v mosquitto_rr; } >/dev/null

.DEFAULT_GOAL := help
.PHONY: help demo test quick soak check aarch64 sbom clean mosquitto cameras mlserver

help:
	@echo 'make demo    install what the demo needs and run it: broker, server and device on this machine (no root)'
	@echo 'make test    install what the tests need and run them (broker and cameras: installed where you are root)'
	@echo 'make quick   run the tests that need no broker and no training (a minute)'
	@echo 'make soak    inject faults into agents, server and broker: make soak FAULTS=500 SEED=1 (4 s a fault)'
	@echo 'make check   lint, formatting and types'
	@echo 'make mlserver install MLServer into build/, for the tests of cloud-server run --executor v2 (400 MB)'
	@echo 'make aarch64 run the agent on an emulated Raspberry Pi and compare its answers (root, Debian, some minutes)'
	@echo 'make sbom    write the software bills of materials of agent and server to build/'
	@echo 'make clean   remove .venv, build results and caches'

demo: $(VENV)/.demo-stamp
	$(VENV)/bin/simulator live $(ARGS)

test: $(VENV)/.dev-stamp mosquitto cameras
	$(PYTEST) $(ARGS)

quick: $(VENV)/.dev-stamp
	$(PYTEST) -m 'not slow and not e2e' $(ARGS)

FAULTS := 100
SEED := 0

soak: $(VENV)/.dev-stamp mosquitto
	$(VENV)/bin/python -m tests.faults --faults $(FAULTS) --seed $(SEED) $(ARGS)

check: $(VENV)/.dev-stamp
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

aarch64: $(VENV)/.dev-stamp
	@command -v debootstrap >/dev/null && command -v qemu-aarch64-static >/dev/null || \
		$(call apt,debootstrap qemu-user-static)
	$(VENV)/bin/python -m benchmarks.aarch64 $(ARGS)

# A server of the Open Inference Protocol. It pins older packages than the project, so it has an environment of its own.
mlserver: build/mlserver/.stamp
build/mlserver/.stamp: constraints.txt
	rm -rf build/mlserver
	$(PYTHON) -m venv build/mlserver
	grep '^onnxruntime==' constraints.txt >build/mlserver/pin.txt
	build/mlserver/bin/python -m pip install --disable-pip-version-check --quiet \
		--constraint build/mlserver/pin.txt mlserver==1.7.1 onnxruntime
	@touch $@

# Software bills of materials in CycloneDX's format, the same bytes at every run. The environment has no pip, so it
# holds what the program needs and nothing else.
SBOM := cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate

sbom: build/sbom-agent.json build/sbom-server.json
build/sbom-server.json: EXTRA := [cloud]
build/sbom-%.json: $(VENV)/.dev-stamp
	rm -rf build/sbom-$*
	$(PYTHON) -m venv --without-pip build/sbom-$*
	$(VENV)/bin/python -m pip --python build/sbom-$* install --quiet --constraint constraints.txt '.$(EXTRA)'
	$(VENV)/bin/$(SBOM) --output-file $@ build/sbom-$*

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.demo-stamp: $(PINS) | $(VENV)/bin/pip
	@echo 'Installing the demo into $(VENV) (about a minute the first time)'
	$(PIP) --editable '.[sim]'
	@touch $@

# What the tests need holds all that the demo needs, so this settles both.
$(VENV)/.dev-stamp: $(PINS) | $(VENV)/bin/pip
	@echo 'Installing the development tools into $(VENV) (some minutes the first time: torch is large)'
	$(PIP) --editable '.[dev]'
	@touch $(VENV)/.demo-stamp $@

# pip comes last into a new environment, so its presence means that the environment is whole.
$(VENV)/bin/pip:
	@test -n '$(PYTHON)' || { echo 'CacheNet needs Python 3.10 or later (python3.11 or python3 on the PATH), and there is none.' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && $(call apt,python3-venv) && \
		$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; } || { \
		echo '$(PYTHON) cannot make virtual environments: its venv module is missing.' >&2; \
		echo 'On Debian and Ubuntu: sudo apt-get install python3-venv' >&2; exit 2; }
	@echo 'Creating $(VENV) with $(PYTHON)'
	$(PYTHON) -m venv $(VENV)

# The tests start brokers of their own: the service that the package brings is not wanted.
mosquitto:
	@$(FIND_MOSQUITTO) || { \
		test "$$(id -u)" = 0 && command -v apt-get >/dev/null && $(call apt,mosquitto mosquitto-clients) && \
		{ systemctl disable --now mosquitto || service mosquitto stop || true; } >/dev/null 2>&1; } || { \
		echo 'The tests need the mosquitto broker and its clients.' >&2; \
		echo 'On Debian and Ubuntu: sudo apt-get install mosquitto mosquitto-clients' >&2; exit 2; }

# A network camera: GStreamer's RTSP server, fed by ffmpeg (77 MB). Without it its tests are skipped.
CAMERAS := ffmpeg python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good
FIND_CAMERAS := command -v ffmpeg >/dev/null && /usr/bin/python3 -c \
	'import gi; gi.require_version("GstRtspServer", "1.0")' 2>/dev/null

cameras:
	@{ $(FIND_CAMERAS); } || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && \
		$(call apt,$(CAMERAS)); } || \
		echo 'Tests of network cameras will be skipped. On Debian and Ubuntu: sudo apt-get install $(CAMERAS)'

# A fresh container has no package lists yet.
APT := apt-get install -y -qq --no-install-recommends
apt = { echo 'Installing $(1) with apt-get' && export DEBIAN_FRONTEND=noninteractive && \
	{ $(APT) $(1) >/dev/null 2>&1 || { apt-get update -qq && $(APT) $(1) >/dev/null; }; }; }
