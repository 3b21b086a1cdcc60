# `make` alone lists the targets. Everything is made in .venv, build and dist: nothing outside this directory is changed,
# except that `make test` installs Debian packages where it may (packaging/test-packages).

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
ARGS ?=
# A process that may not write bytecode compiles everything at each start: a second of each gateway of the tests.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help run test acceptance bench torture sabotage check audit format lock deb rpm sbom clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 17

run: $(READY) ## run the gateway beside a stand-in archive, and send a study through it
	@$(PY) -m tests.demo $(ARGS)

# Most tests wait for something most of the time: two workers for each of two cores.
test: $(READY) ## install what the tests need, then run all but the next; ARGS goes to pytest
	@packaging/test-packages
	@$(PY) -m pytest -n 4 --dist loadfile --no-loadscope-reorder --ignore tests/acceptance $(ARGS)

acceptance: $(READY) ## whole stories: packages in booted containers, upgrades, kills at any moment, every page
	@packaging/test-packages
	@$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder $(if $(ARGS),$(ARGS),tests/acceptance)

bench: $(READY) ## measure the gateway beside DCMTK and Orthanc (docs/performance.md); ARGS goes to the program
	@packaging/test-packages
	@$(PY) -m tests.bench $(ARGS)

torture: $(READY) ## every fault and intruder, and the scorecard (docs/reliability.md); as root; ARGS goes to the program
	@packaging/test-packages
	@$(PY) -m tests.torture $(ARGS)

sabotage: $(READY) ## break the code on purpose, point by point, and check that the torture notices
	@$(PY) -m tests.torture.sabotage $(ARGS)

check: $(READY) audit ## lint, format, language, types, layers, known vulnerabilities
	@$(VENV)/bin/ruff check
	@$(VENV)/bin/ruff format --check
	@$(PY) packaging/language
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

audit: $(READY) ## look for known vulnerabilities of what we install
	@$(PY) packaging/audit

format: $(READY) ## format the code, and fix what ruff can fix
	@$(VENV)/bin/ruff check --fix --quiet || true
	@$(VENV)/bin/ruff format

rpm: $(READY) ## build the RPM package of the gateway as well (needs rpmbuild)
	@RPM=1 packaging/build-deb $(PY)

lock: $(READY) ## pin the dependencies again, with hashes
	@packaging/lock $(PY)

deb: $(READY) ## build the Debian packages of gateway and central office with this machine's python3
	@packaging/build-deb $(PY)

sbom: deb ## the same, and show where their bills of materials are (CycloneDX); the packages have them, too
	@ls dist/*.cdx.json

clean: ## remove all that was made here
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements-dev.lock packaging/venv
	@packaging/venv $(VENV)
	@touch $@
