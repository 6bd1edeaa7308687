# `make demo` is the shortest way to see refold work; everything else is for those who change it.
# LOG=redpanda://localhost:9092 runs the demo against a broker.

PYTHON_CANDIDATES := python3.12 python3.11 python3 python
STAMP := .venv/.installed
BENCH := build/bench
BENCH_STAMP := $(BENCH)/.installed

# As installing a package does: a fifth of a second less for each start, also where PYTHONDONTWRITEBYTECODE keeps the
# interpreter from doing so itself.
COMPILE := .venv/bin/python -m compileall -q flows connectors schemas benchmarks

.PHONY: demo setup test test-slow sabotage lint bench bench-quick bench-neighbours up down clean help

demo: $(STAMP)  ## fold a year of flights, break a view, rebuild it from the log
	.venv/bin/refold demo $(if $(LOG),--log $(LOG))

setup: $(STAMP)  ## make .venv with refold and all that its tests and linters need

# uv where there is one, or else the first candidate that runs and is 3.11 or 3.12 (a name on the PATH may be a shim that
# does not run). pip is seeded for the flight data, which it downloads.
$(STAMP): pyproject.toml
	@if command -v uv >/dev/null 2>&1; then \
	    uv venv --quiet --allow-existing --seed --python '>=3.11,<3.13' .venv && \
	    uv pip install --quiet --python .venv/bin/python -e '.[test,lint]'; \
	else \
	    for candidate in $(PYTHON_CANDIDATES); do \
	        if "$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1; \
	        then python="$$candidate"; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then \
	        echo "error: refold needs Python 3.11 or 3.12, and none of $(PYTHON_CANDIDATES) is one" >&2; \
	        echo "  why     Bytewax has no wheels for later versions, Polars and PyArrow none for earlier ones" >&2; \
	        echo "  do      install Python 3.12, or uv, which brings its own" >&2; \
	        exit 2; \
	    fi; \
	    "$$python" -m venv .venv && .venv/bin/python -m pip install --quiet -e '.[test,lint]'; \
	fi
	@$(COMPILE)
	@touch $@

test: $(STAMP)  ## the tests that take seconds
	.venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-slow: $(STAMP)  ## the tests that take minutes (half an hour in all)
	.venv/bin/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m slow

sabotage: $(STAMP)  ## break the engine in many small ways; each must make some test fail
	.venv/bin/python -m tests.sabotage

lint: $(STAMP)  ## style, format, types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

bench: $(STAMP) $(BENCH_STAMP)  ## measure refold beside limits and baselines, 20 million events: ten minutes, 10 GB (starts a broker: Java, Maven)
	$(COMPILE)
	PYTHONPATH=$(BENCH) .venv/bin/python -m benchmarks.replay --events 20000000

bench-quick: $(STAMP) $(BENCH_STAMP)  ## the same with two million: two minutes, of which the loading of kernels is a good part
	$(COMPILE)
	PYTHONPATH=$(BENCH) .venv/bin/python -m benchmarks.replay

bench-neighbours: $(STAMP) $(BENCH_STAMP)  ## measure what a rebuild does to others at the same broker (starts one)
	$(COMPILE)
	PYTHONPATH=$(BENCH) .venv/bin/python -m benchmarks.neighbours

# Beside the environment, not in it: refold and its tests must not come to lean on what only the baselines need.
$(BENCH_STAMP): benchmarks/requirements.txt | $(STAMP)
	.venv/bin/python -m pip install --quiet --upgrade --target $(BENCH) -r benchmarks/requirements.txt
	@touch $@

up:  ## start Redpanda and its console (Docker)
	docker compose up --detach --wait

down:  ## stop them; the topics stay
	docker compose down

clean:  ## remove what was made here: environment, caches, the demo's log and views (the downloaded data stay)
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache data/log data/store
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
