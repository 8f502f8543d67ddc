# Two commands do all the set-up: `make demo` and `make test`. Python 3.11 or newer, git and make are all they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test live live-open attack kill-bench backtest-bench pii-bench bench gates chaos chaos-long lint cost long setup setup-dev lock histories clean

demo: setup
	$(BIN)/remit demo

# Three workers on two cores: the tests wait more than they work.
test: lint .venv/.prometheus
	$(BIN)/python -m pytest -n $$($(BIN)/python -c 'import os; print(3 * (os.cpu_count() or 2) // 2)') --dist worksteal

# A model that does what an attacker would, in 10,000 calls; then each guard is taken away once. `make attack ATTACK="--calls 500"`.
attack: setup-dev
	$(BIN)/python -m tests.attack $(ATTACK)

# Workers, server and PostgreSQL broken under load, about a minute; the long form takes a quarter of an hour. `CHAOS="--seed 7"`.
chaos: setup-dev
	$(BIN)/python -m tests.chaos $(CHAOS)

chaos-long: setup-dev
	$(BIN)/python -m tests.chaos --form long $(CHAOS)

# Ten checks of each provider that there is a key for, for under a cent. `make live BASE_URL=http://… MODEL=… KEY=…`: of a server.
live: setup-dev
	$(BIN)/python -m tests.live $(if $(BASE_URL),--base-url '$(BASE_URL)') $(if $(MODEL),--model '$(MODEL)')

# A hundred tickets on a small open model, on this machine's CPU; about an hour. `make live-open OPEN="--tickets 10"`.
live-open: setup-dev tests/live/.venv-open/.ready
	$(BIN)/python -m tests.live.open_model $(OPEN)

# Compiles for 10 to 30 minutes.
tests/live/.venv-open/.ready: tests/live/requirements-open.txt
	$(PYTHON) -m venv tests/live/.venv-open
	CMAKE_ARGS="-DLLAVA_BUILD=OFF" tests/live/.venv-open/bin/python -m pip --disable-pip-version-check install --require-hashes -r $<
	@touch $@

lint: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python -m tests.compose
	$(BIN)/remit policy check

setup: .venv/.run
setup-dev: .venv/.dev

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Remit needs Python 3.11 or newer; set PYTHON."; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.run: .venv/.python requirements.lock pyproject.toml
	$(PIP) install --require-hashes -r requirements.lock
	$(PIP) install --no-deps --editable .
	@touch $@

.venv/.dev: .venv/.run requirements-dev.lock
	$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@

# Debian's Prometheus, unpacked and not installed, for the tests of metrics and alerts. One sentence where it can't be had.
.venv/.prometheus: .venv/.dev
	$(BIN)/python -m tests.prometheus
	@touch $@

# What the checks cost a step: runs with and without them, in turns. For an idle machine.
cost: setup-dev
	$(BIN)/python -m tests.cost

# Remit beside plain Temporal and two agent SDKs on Temporal; for an idle machine, half an hour. `make bench BENCH="--quick"`.
bench: setup-dev bench/.venv-peers/.ready
	$(BIN)/python -m bench $(BENCH)

bench/.venv-peers/.ready: bench/requirements-peers.txt
	$(PYTHON) -m venv bench/.venv-peers
	bench/.venv-peers/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r $<
	@touch $@

# A thousand parked runs and some that write, then `kill --fleet`. For an idle machine. `make kill-bench KILL="--runs 200"`.
kill-bench: setup-dev
	$(BIN)/python -m tests.killbench $(KILL)

# Recorded actions by the seed, and another policy asked about each. `make backtest-bench BACKTEST="--actions 1000000"`.
backtest-bench: setup-dev
	$(BIN)/python -m tests.backtestbench $(BACKTEST)

# How much personal data is found before a model sees a text, by kind, and what that costs: the figures of docs/privacy.md.
pii-bench: setup-dev
	$(BIN)/python -m tests.piibench

# How often the gates of a rollout are wrong about simulated traffic; the figures of docs/rollout-gates.md. Some minutes.
gates: setup-dev
	$(BIN)/python -m tests.gatesim

# One run of 5,000 steps. `make long LONG="--steps 500"`.
long: setup-dev
	$(BIN)/python -m tests.long $(LONG)

# Needs `uv`. No lock names a registry's host.
UV := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet
lock:
	$(UV) -o requirements.lock
	$(UV) --group dev -c requirements.lock -o requirements-dev.lock
	$(subst pyproject.toml,bench/requirements-peers.in,$(UV)) -c requirements.lock -o bench/requirements-peers.txt
	$(subst pyproject.toml,tests/live/requirements-open.in,$(UV)) -o tests/live/requirements-open.txt

# Record the stored histories anew, by running the demo's scenarios; only for a new kind of history.
histories: setup-dev
	$(BIN)/python -m tests.replay.record

clean:
	rm -rf .venv bench/.venv-peers tests/live/.venv-open .remit .pytest_cache .ruff_cache .hypothesis tests/wire/node_modules tests/wire/stripe/node_modules tests/oidc/node_modules
