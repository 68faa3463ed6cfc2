# Every target sets up what it needs; only python3 (with venv) and make must be there.
.DEFAULT_GOAL := help
PYTHON ?= python3
FORM ?= full
TABLE ?=
MINUTES ?= 20
UV = $(shell command -v uv || echo .venv/bin/uv)
STAMP = .venv/.ready

.PHONY: help setup demo test chaos soak scale bench lint check format docs licences audit lock

help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## Make .venv with everything in it

$(STAMP): pyproject.toml uv.lock
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@command -v uv >/dev/null || test -x .venv/bin/uv || .venv/bin/python -m pip install --quiet uv
	@# --inexact: uv may itself live in this environment, and would remove itself
	$(UV) sync --frozen --inexact --compile-bytecode --quiet --all-extras --python .venv/bin/python
	@touch $@

demo: setup ## See it work: a server, a fleet, a matching engine, the consumer (about 20 s)
	@.venv/bin/consumer demo

test: setup ## Run the tests that fit into four minutes
	.venv/bin/pytest -n 3 -m "not slow and not systemd and not chaos and not scale"

chaos: setup ## Strike it with every fault there is, and print what they came to (8 min; FORM=short: 2 min)
	@# Most of the time is waiting for faults to last. TABLE=docs/reliability.md puts the table there.
	CHAOS_FORM=$(FORM) CHAOS_TABLE=$(TABLE) .venv/bin/pytest -n 4 --dist worksteal -m "not soak" tests/chaos

soak: setup ## Run it under a steady load: nothing grows (20 min, or MINUTES=…)
	SOAK_MINUTES=$(MINUTES) .venv/bin/pytest -s -m soak tests/chaos

scale: setup ## Run what takes minutes: as many rows as a large site has, the image where an engine runs (an hour)
	.venv/bin/pytest -s -m scale

bench: setup ## Measure speed and cost, each figure beside its floor (10 min; FORM=short: less, and off by two fails)
	.venv/bin/python -m benchmarks $(if $(filter short,$(FORM)),--short)

lint: setup ## ruff, mypy --strict, import-linter, sqlfluff
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/sqlfluff lint --disable-progress-bar db

check: lint ## Lint, and every test but those of chaos, soak and scale
	.venv/bin/pytest -n 2 -m "not systemd and not chaos and not scale"
	.venv/bin/pytest -s -m systemd

format: setup ## Format Python and SQL
	.venv/bin/ruff check --fix
	.venv/bin/ruff format
	.venv/bin/sqlfluff fix --disable-progress-bar db

docs: setup ## Renew the tables of docs/reference.md, which are made from the code
	.venv/bin/python docs/generate.py

licences: setup ## Write docs/licences.md anew
	.venv/bin/python -m tests.licences

audit: setup ## Ask for known vulnerabilities of what is brought along (network)
	@$(UV) export --frozen --quiet --no-dev --extra web --no-emit-project --format requirements-txt > .venv/runtime.txt
	$(UV) tool run pip-audit --strict --disable-pip --require-hashes --requirement .venv/runtime.txt

lock: setup ## Renew uv.lock
	$(UV) lock
