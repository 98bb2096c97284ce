# `make run` and `make test` are all a new machine needs: each makes .venv from constraints.txt first.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
INSTALL_LOG := .venv/install.log
# DVC and lineage need it.
GIT := { command -v git || { apt-get update && apt-get install -y git; }; }

.PHONY: run test docs browser compiler torchao postgres emoji emoji-font test-slow test-gpu test-faults conformance families scale memory bench lint constraints \
        environment clean dvc.yaml

environment: $(STAMP)

$(STAMP): constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 13) else f"fewstep needs Python 3.11 or 3.12, {sys.executable} is {v[0]}.{v[1]}; set PYTHON=...")'
	@mkdir -p .venv
	@echo "installing into .venv: some minutes, log in $(INSTALL_LOG)"
	@{ $(GIT) && $(PYTHON) -m venv .venv && $(BIN)/pip install --upgrade "pip>=25" \
	    && $(BIN)/pip install --constraint constraints.txt --editable '.[dev,server,docs]'; } >$(INSTALL_LOG) 2>&1 \
	    || { tail -n 20 $(INSTALL_LOG); echo "installing failed; all that was said is in $(INSTALL_LOG)"; exit 1; } >&2
	@touch $@

run: $(STAMP)
	$(BIN)/fewstep run

# A test that hangs ends its process with every thread's stack: CI ends at 90 minutes without a word.
HANGS := --timeout 1500 --timeout-method thread
# PROFILE=server: whole projects again, on servers of their own (Prefect and MLflow on PostgreSQL, S3) in place of files.
PROFILE ?= local
TESTS_server := -m "both_profiles and not (local or slow or faults or gpu)"
test: $(STAMP) browser emoji-font postgres compiler torchao
	$(BIN)/ruff check .
	FEWSTEP_TEST_PROFILE=$(PROFILE) $(BIN)/python -m pytest -n auto --durations 25 $(HANGS) $(TESTS_$(PROFILE))

# The site of docs/, in build/site: strictly, so that a link that leads nowhere fails. A test does the same.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The report is looked at in a real browser. Where it cannot be installed, those tests are skipped and say so.
browser:
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	    echo "installing chromium and chromium-driver (the report is tested in them)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium chromium-driver >/dev/null; \
	} || echo "no chromium here and no right to install it: the tests in the browser will be skipped"

# examples/emoji draws its pictures from this font. Where it cannot be installed, the tests that draw are skipped.
emoji-font:
	@test -n "$$FEWSTEP_EMOJI_FONT" || find /usr/share/fonts -name NotoColorEmoji.ttf 2>/dev/null | grep -q . || { \
	    echo "installing fonts-noto-color-emoji (examples/emoji draws from it)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq fonts-noto-color-emoji >/dev/null; \
	} || echo "no emoji font here and no right to install it: the tests that draw emoji will be skipped"

# A text teacher, trained, distilled and measured (docs/emoji.md): at most 90 minutes on two idle cores; goes on where it
# was stopped. SIZE=trial is a short form of it.
SIZE ?= full
emoji: $(STAMP) emoji-font
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[emoji]'
	$(BIN)/python -m examples.emoji --size $(SIZE)

# What hosts share is tested on the database that they share. Where it cannot be installed, those tests are skipped.
postgres:
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	    echo "installing postgresql (Prefect and MLflow are tested on it)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >/dev/null; \
	} || echo "no PostgreSQL here and no right to install it: the tests on it will be skipped"

# A GPU that is not there is compiled (tests/emulated_gpu), and so are networks. Where no compiler can be installed, those
# tests are skipped.
compiler:
	@command -v g++ >/dev/null || { \
	    echo "installing g++ (networks and an emulated GPU are compiled by it)"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq g++ >/dev/null; \
	} || echo "no g++ here and no right to install it: the tests that compile will be skipped"

# In a folder of its own: where torchao is in the environment, diffusers loads it with every command, and it says so.
torchao: .venv/apart/torchao
.venv/apart/torchao: $(STAMP)
	@$(BIN)/pip install --quiet --no-deps --constraint constraints.txt --target $@ torchao >>$(INSTALL_LOG) 2>&1 \
	    || echo "torchao cannot be installed: the tests of moments in 8 bits will be skipped"

test-slow: $(STAMP) torchao
	$(BIN)/python -m pytest -m slow

# Whole runs, bfloat16, compiled networks, exact resume and nccl on the GPUs of this machine; skipped where there are none.
test-gpu: $(STAMP)
	$(BIN)/python -m pytest -n 0 -m gpu -rs tests/gpu

# Servers that stop, disks that fill up, processes that are killed at FEWSTEP_KILLS events: docs/faults.md (20 minutes).
test-faults: $(STAMP) postgres
	$(BIN)/python -m tests.faults.campaign

# Every recipe on every closed-form problem (about a minute each); figures of unchanged recipes and code are kept.
conformance: $(STAMP)
	-$(BIN)/python -m fewstep.conformance --workers 2 --table

# Every recipe on a tiny pipeline of every family, three steps a round (about a quarter of an hour).
families: $(STAMP)
	$(BIN)/python -m tests.fewstep.families.recipe_matrix

# Processes that train together, on tiny networks of three families: exact resume, equality with one process (20 minutes);
# engines on real clusters and servers (20 minutes): docs/scale.md.
scale: $(STAMP)
	$(BIN)/python -m tests.fewstep.training.scale_matrix
	$(BIN)/python -m tests.flows.executors.engines_table

# What distilling known networks takes of memory, from their configurations (minutes).
memory: $(STAMP)
	$(BIN)/python -m benchmarks.memory

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# The stages' classes (tasks/stages) say what dvc.yaml says; a test keeps it current.
dvc.yaml: $(STAMP)
	$(BIN)/python -m tasks.storage.dvc.dvc_yaml

lint: $(STAMP)
	$(BIN)/ruff check .

# Resolves every transitive version anew (seconds); torch stays at the version the project is tested with.
constraints:
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/pip install --quiet uv
	printf 'torch==2.13.0\n' > .venv/uv/pins.txt
	.venv/uv/bin/uv pip compile pyproject.toml --all-extras --constraint .venv/uv/pins.txt --python-version 3.11 \
	    --no-header --no-annotate --no-emit-index-url --strip-extras --upgrade --quiet --output-file constraints.txt

clean:
	$(BIN)/fewstep clean
