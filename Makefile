# Two commands do everything, install included: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup system-deps demo test check test-all bench docs clean help

help:
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

setup: $(STAMP) ## make .venv with everything pinned by constraints.txt

system-deps: ## Debian's chromium and redis-server, for the tests that need them
	@if command -v chromium >/dev/null && command -v redis-server >/dev/null; then echo "system-deps: present"; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium redis-server >/dev/null; \
	else echo "system-deps: install chromium and redis-server by hand (needs root and apt-get)"; fi

demo: setup ## train, evaluate, serve, learn from the log and report, on a generated world
	$(BIN)/tandem demo

test: setup ## the tests, without the slow ones
	$(BIN)/pytest

check: setup ## ruff, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test-all: setup ## every test, the slow ones included
	$(BIN)/pytest -m ''

bench: setup ## measure most tables of results again, which takes days; needs TANDEM_DATA
	for file in $(filter-out %/drr_movielens.py,$(wildcard benchmarks/quality/*.py)); do $(BIN)/python $$file || exit 1; done
	$(BIN)/python benchmarks/quality/drr_movielens.py --variants user
	$(BIN)/python benchmarks/quality/drr_movielens.py --variants logged --states ave --steps 32000 --name drr_movielens_logged
	$(BIN)/tandem train --data movielens-1m --path $(TANDEM_DATA)/ml-1m --home .tandem/bench
	$(BIN)/python benchmarks/speed/serve.py --home .tandem/bench
	$(BIN)/python benchmarks/speed/flat_search.py
	$(BIN)/python benchmarks/speed/two_stage_loss.py
	$(BIN)/python benchmarks/speed/catalogue_free_step.py
	$(BIN)/python benchmarks/speed/sessions.py

docs: setup ## build the documentation into site/; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## remove what was built; models and logs under .tandem stay
	rm -rf .venv build dist site *.egg-info .pytest_cache .ruff_cache .import_linter_cache
