# Everything that is done here has a verb; `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help up test check format bench docs clean
export HYPOTHESIS_STORAGE_DIRECTORY := .cache/hypothesis
MAKEFLAGS += --no-print-directory
BIN := .venv/bin
PY := $(BIN)/python

help: ## list the verbs
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r verb what; do printf '%-16s%s\n' "$$verb" "$$what"; done

up: ## install what is missing and start tokenworks in the foreground
	@.ci/install run
	@exec $(BIN)/tokenworks up

test: ## everything that must hold: style, types, imports, tests, coverage
	@.ci/install test
	@$(MAKE) check
	@mkdir -p .cache/coverage && rm -f .cache/coverage/data*
	@$(PY) -m pytest --cov --cov-report= --junitxml=.cache/tests.xml; status=$$?; \
	  $(PY) -m tests.tidy.thresholds .cache || status=1; exit $$status

check: ## style, types and imports, in seconds
	@.ci/install test
	@$(BIN)/ruff format --check --quiet . || { echo "run 'make format'"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-cache --no-logo

format: ## format the code and fix what can be fixed
	@.ci/install test
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

docs: ## write docs/reference anew from the code
	@.ci/install test
	@$(PY) -m tests.docs.reference

bench: ## measure the door and the engine beside their peers (minutes; needs cc, nginx and a quiet machine)
	@.ci/install test
	@$(PY) -m benchmarks.door
	@$(PY) -m benchmarks.engine
	@$(PY) -m benchmarks.leak

clean: ## remove what was made here, .venv included; never the state of tokenworks
	rm -rf .venv .cache build dist benchmarks/build src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
