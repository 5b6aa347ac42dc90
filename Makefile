# make up     start everything on this machine (Ctrl-C stops it, data stays in .kyma)
# make test   the test-suite (JOBS=3)   make lint   style, types, import rules
# make bench  the load generator        make lock   renew the lock files
# make clean  forget the virtualenv and caches; never the data

PYTHON ?= python3
ARGS ?=
JOBS ?= 3
RUN := .venv/bin/python
INSTALLED := .venv/.installed
INSTALL := .venv/bin/uv --system-certs pip install --require-hashes --no-deps --python
INSTALL_SLOWLY := $(RUN) -m pip --disable-pip-version-check --no-input --python
SLOWLY := install --require-hashes --no-deps -r
SDK_SETS := current held-back
SDK_INSTALLED := $(SDK_SETS:%=.venv-sdk/%/.installed)

.DEFAULT_GOAL := up
.DELETE_ON_ERROR:
.PHONY: up test lint bench lock clean

up: $(INSTALLED)
	@echo "Starting Kyma"
	@exec $(RUN) -m adapters up $(ARGS)

test: $(INSTALLED)
	@$(MAKE) --no-print-directory -j2 $(SDK_INSTALLED)
	PYTHONDONTWRITEBYTECODE= $(RUN) -m pytest tests -n $(JOBS) --dist loadfile $(ARGS)

lint: $(INSTALLED)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy --strict kyma adapters console
	$(RUN) -c 'import sys; sys.path.insert(0, "."); from importlinter.cli import lint_imports_command; lint_imports_command()'

bench: $(INSTALLED)
	$(RUN) -m bench $(ARGS)

# The stamp is written last: an install that was cut short is done again, and a virtualenv
# without a working pip (cut short, or its Python is gone) is made anew. uv installs in a tenth of
# pip's time; where it cannot (no wheel for this machine, packages that only pip is told where to
# find) pip does.
$(INSTALLED): requirements.lock installer.lock
	@command -v $(PYTHON) >/dev/null || { \
	  echo "Kyma needs Python 3.11 or newer, and \`$(PYTHON)\` was not found. Install it (Debian, Ubuntu: apt install python3 python3-venv) or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Kyma needs Python 3.11 or newer, and \`$(PYTHON)\` is $$($(PYTHON) -V 2>&1). Name a newer one: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "\`$(PYTHON)\` cannot make virtual environments. Install its venv package (Debian, Ubuntu: apt install python3-venv), then run make again." >&2; exit 1; }
	@rm -f $@
	@$(RUN) -m pip --version >/dev/null 2>&1 || { \
	  echo "Making .venv with $$($(PYTHON) -V)"; $(PYTHON) -m venv --clear .venv; }
	@echo "Installing $$(grep -c '==' $<) pinned packages into .venv (once, some seconds)"
	@{ $(INSTALL_SLOWLY) $(RUN) $(SLOWLY) installer.lock --quiet --only-binary :all: && \
	  $(INSTALL) $(RUN) -r $<; } || \
	  { echo "uv could not; pip tries now (a minute or two)"; $(INSTALL_SLOWLY) $(RUN) $(SLOWLY) $<; }
	@touch $@

# The frameworks that drive a gateway in tests/sdk: apart from what Kyma runs on, and apart from
# one another where their requirements contradict (docs/decisions/0010-sdk-suite.md).
$(SDK_INSTALLED): .venv-sdk/%/.installed: tests/sdk/%.lock | $(INSTALLED)
	@rm -f $@
	@$(RUN) -m venv --clear --without-pip .venv-sdk/$*
	@echo "Installing $$(grep -c '==' $<) pinned packages into .venv-sdk/$* (for make test, once)"
	@$(INSTALL) .venv-sdk/$*/bin/python --quiet -r $< || \
	  $(INSTALL_SLOWLY) .venv-sdk/$*/bin/python $(SLOWLY) $< --quiet --no-compile
	@touch $@

lock:
	rm -rf build/lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lock/bin/uv pip compile --quiet pyproject.toml --extra dev --universal --generate-hashes \
	  --no-header --no-emit-index-url --no-annotate --python-version 3.11 $(ARGS) -o requirements.lock
	echo uv | build/lock/bin/uv pip compile --quiet - --universal --generate-hashes \
	  --no-header --no-emit-index-url --no-annotate --python-version 3.11 -o installer.lock
	for set in $(SDK_SETS); do \
	  build/lock/bin/uv pip compile --quiet --group sdk-$$set --universal --generate-hashes \
	    --no-header --no-emit-index-url --no-annotate --python-version 3.11 $(ARGS) \
	    -o tests/sdk/$$set.lock || exit 1; done
	rm -rf build/lock

clean:
	rm -rf .venv .venv-sdk build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.kyma/*' -prune -exec rm -rf {} +
