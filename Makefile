# DuckMesh. `make` alone lists the targets. Python 3.11 or newer and make are all it needs.
#
# Every path here is relative, so that the checkout may lie in a directory whose name holds spaces.

PYTHON ?=
PY := .venv/bin/python
INSTALLED := .venv/.installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help demo up down status reset test test-long test-ops test-runbooks test-fuzz test-deploy check audit sbom restore-drill bench fmt lock clean
.SUFFIXES:

help: ## list the targets
	@echo "DuckMesh: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' Makefile
	@echo "Settings are variables, for example: make up DUCKMESH_PORT=8081 (docs/settings.md has all of them)."

demo: $(INSTALLED) ## stream 336,776 real flights through the whole stack, query, compact and check them (EXIT=1: stop then)
	@$(PY) -m duckmesh.devstack demo $(if $(EXIT),--exit)

up: $(INSTALLED) ## start the stack in the background; returns when it is ready
	@$(PY) -m duckmesh.devstack up

down: $(INSTALLED) ## stop the stack; its data stay
	@$(PY) -m duckmesh.devstack down

status: $(INSTALLED) ## show what runs; status 1 if it is not ready
	@$(PY) -m duckmesh.devstack status

reset: $(INSTALLED) ## stop the stack and delete its data (FORCE=1: do not ask)
	@$(PY) -m duckmesh.devstack reset $(if $(FORCE),--force)

test: $(INSTALLED) ## run the tests, three files at a time, against throw-away servers (ARGS=… is passed to pytest)
	@env -u DJANGO_SETTINGS_MODULE $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not long and not ops and not runbooks and not fuzz and not deploy" $(ARGS)

test-long: $(INSTALLED) ## run all tests, soaks and big bodies included
	@env -u DJANGO_SETTINGS_MODULE $(PY) -m pytest -m "not ops and not runbooks and not fuzz and not deploy" $(ARGS)

test-ops: $(INSTALLED) ## prove rules, alerts, routes and dashboards with Debian's Prometheus and Alertmanager
	@sh .ci/ops-packages
	@env -u DJANGO_SETTINGS_MODULE $(PY) -m pytest -m ops tests/ops $(ARGS)

test-runbooks: $(INSTALLED) ## break a stack in each way that a runbook is about, and follow its page, two pages at a time
	@sh .ci/ops-packages
	@env -u DJANGO_SETTINGS_MODULE $(PY) -m pytest -n 2 --dist load --maxschedchunk 1 -m runbooks tests/runbooks $(ARGS)

test-fuzz: $(INSTALLED) ## hold a live API against its OpenAPI document with schemathesis, all checks (FUZZ_SECONDS=…)
	@env -u DJANGO_SETTINGS_MODULE $(PY) -m pytest -m fuzz tests/fuzz $(ARGS)

test-deploy: $(INSTALLED) ## hold deploy/ against its formats, start it as processes, and run the acceptance tests on it, scaled out too
	@env -u DJANGO_SETTINGS_MODULE $(PY) -m pytest -m deploy tests/deploy $(ARGS)
	@env -u DJANGO_SETTINGS_MODULE $(PY) -m pytest -m "not long" --timeout 300 --stack compose tests/acceptance/test_contract_*.py $(ARGS)
	@env -u DJANGO_SETTINGS_MODULE $(PY) -m pytest -m "not long" --timeout 300 --stack scaled tests/acceptance/test_contract_*.py $(ARGS)

check: $(INSTALLED) ## lint, format, types, import contracts, migrations, generated pages, DuckDB's functions: what CI runs first
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m duckmesh.devstack.isolated mypy
	$(PY) -m duckmesh.devstack.isolated importlinter
	$(PY) -m duckmesh.devstack.isolated manage.py makemigrations --check --dry-run
	$(PY) -m duckmesh.devstack.settings_page --check
	$(PY) deploy/grafana/dashboards.py --check
	$(PY) -m query.list_functions --check

audit: $(INSTALLED) ## ask PyPI's advisories about every version that the product runs on
	@sh .ci/audit $(PY)

sbom: $(INSTALLED) ## write the bill of materials (CycloneDX) to .duckmesh/sbom.json
	@mkdir -p .duckmesh
	@$(PY) deploy/sbom.py requirements/base.txt requirements/embedded.txt > .duckmesh/sbom.json
	@echo .duckmesh/sbom.json

restore-drill: $(INSTALLED) ## restore the running stack's catalog into a scratch database, and prove it (ARGS=--help)
	@$(PY) manage.py restore_drill $(ARGS)

bench: $(INSTALLED) ## measure the stack, and DuckLake beside it; writes .duckmesh/bench/*.json (ARGS=--help)
	@$(PY) -m tests.benchmarks $(ARGS)

fmt: $(INSTALLED) ## format the code and write the generated pages anew
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) -m duckmesh.devstack.settings_page
	$(PY) deploy/grafana/dashboards.py

lock: $(INSTALLED) ## resolve requirements/*.in anew into the hashed *.txt
	$(PY) -m venv .venv/lock
	.venv/lock/bin/python -m pip install --quiet uv
	for name in base embedded dev s3test deploytest bench audit fuzz otel; do \
	  .venv/lock/bin/python -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	    --no-header --output-file requirements/$$name.txt requirements/$$name.in || exit 1; \
	done

clean: ## delete the virtual environment and the caches (not the data: make reset)
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.duckmesh/*' -prune -exec rm -rf {} +

$(INSTALLED): requirements/dev.txt
	@sh .ci/venv "$(PYTHON)"
