# Two commands for a newcomer: `make run` and `make test`. Everything they need goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
NATIVE := $(wildcard native/*.cpp native/*.h native/*.inc native/CMakeLists.txt)

.PHONY: run test soak fuzz interop bench sanitize clean

# Ends by serving; without a registry for smollm2 or the page, it serves without them.
run: .venv/ready
	$(BIN)/cadran run quickstart
	$(BIN)/python web/build.py
	$(BIN)/cadran pull smollm2 || true
	$(BIN)/cadran serve --open

test: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m "not slow" --numprocesses 2 --dist loadfile

soak: .venv/ready-dev
	$(BIN)/python -m pytest -m slow --ignore tests/interop --ignore-glob '*fuzz*'

fuzz: .venv/ready-dev
	CADRAN_SCHEMA_EXAMPLES=200 $(BIN)/python -m pytest tests/serve/test_schema_fuzz.py
	$(BIN)/python -m pytest -m slow tests/model/gguf/test_gguf_fuzz.py tests/model/test_checkpoint_fuzz.py

interop: .venv/ready-interop
	$(BIN)/python -m pytest -m slow tests/interop

bench: .venv/ready-bench
	$(BIN)/python benchmarks/train_throughput.py
	$(BIN)/cadran run quickstart
	$(BIN)/python benchmarks/time_to_loss.py
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/serve.py

# The native tests under the address and undefined-behaviour sanitizers, then under the thread sanitizer.
sanitize: .venv/ready-sanitize
	$(BIN)/cmake -S native -B build/address -DCADRAN_TESTS=ON -DCADRAN_SANITIZE=address,undefined
	$(BIN)/cmake --build build/address --parallel 2
	build/address/test_core
	$(BIN)/cmake -S native -B build/thread -DCADRAN_TESTS=ON -DCADRAN_SANITIZE=thread
	$(BIN)/cmake --build build/thread --parallel 2
	build/thread/test_core

# Compiles the core too, hence its sources.
.venv/ready: pyproject.toml $(NATIVE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Cadran needs Python 3.11 or newer and $(PYTHON) is " + sys.version.split()[0] + "; type make PYTHON=python3.12 run")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# By name: what was just installed is not compiled a second time.
.venv/ready-dev: .venv/ready
	$(BIN)/python -m pip install --quiet 'cadran[dev]'
	@touch $@

.venv/ready-sanitize: .venv/ready
	$(BIN)/python -m pip install --quiet cmake
	@touch $@

# litgpt asks for older versions of what it shares with us and runs with the newer ones: hence --no-deps. TRL needs
# nothing that is not there already.
# The peers of the engine go into the user's cache folder, in environments of their own; llama.cpp is compiled (minutes).
.venv/ready-bench: .venv/ready-dev
	$(BIN)/python -m pip install --quiet --no-deps litgpt==0.5.13 lightning lightning-utilities torchmetrics jsonargparse trl==1.16.0
	$(BIN)/python benchmarks/engine.py --build
	@touch $@

# llama.cpp is compiled here, which takes minutes.
.venv/ready-interop: .venv/ready-dev
	$(BIN)/python -m pip install --quiet llama-cpp-python==0.3.16
	$(BIN)/python -m pip install --quiet --no-deps trl==1.16.0
	$(BIN)/python -m pip install --quiet 'cadran[cluster]'
	@touch $@

clean:
	rm -rf .venv runs build dist web/node_modules src/cadran/serve/web_assets .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
