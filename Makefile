# `make demo` and `make test` work on a fresh machine; everything else is for those who work on the code.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: setup demo test lint unit parity compile-matrix precision rewrites kernels cache-torture fuzz faults long-take stream-cost cold-start linear-cost bench gpu-validation docs lookahead-curve evaluate bench-quick bench-cpu bench-gpu bench-song bench-song-memory bench-truth native hosts-setup host-checks host-speed readme-tables clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	# The names of classic TensorRT's API, for a test; its libraries are not needed.
	-$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d .venv/bindings tensorrt-cu12-bindings==10.13.3.9
	-$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps -d .venv/bindings tensorrt-cu13-bindings==11.4.0.106
	# The CPU kernels, if what is shipped does not fit.
	-$(BIN)/python -m trt_svc.native.compiling
	touch $(READY)

demo: setup            ## a clip through the demo voice on the CPU: table, WAV, picture
	$(BIN)/python -m demo.run

test: lint unit        ## style, types, architecture and all quick tests

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One process per core, one thread each: most tests are too small to share out their work.
unit: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4

parity: setup          ## rewrites docs/parity.md from the golden data
	$(BIN)/python -m tests.parity > docs/parity.md.part
	mv docs/parity.md.part docs/parity.md

compile-matrix: setup  ## builds every published config with NVIDIA's compiler: docs/compile-matrix.md (many minutes)
	$(BIN)/python -m benchmarks.compile_matrix > docs/compile-matrix.md.part
	mv docs/compile-matrix.md.part docs/compile-matrix.md

precision: setup       ## what half precision costs, full-size networks: docs/precision.md (some minutes)
	$(BIN)/python -m benchmarks.precision_table > docs/precision.md.part
	mv docs/precision.md.part docs/precision.md

rewrites: setup        ## times every graph rewrite on this machine: docs/rewrites.md (some minutes)
	$(BIN)/python -m benchmarks.rewrites_table > docs/rewrites.md.part
	mv docs/rewrites.md.part docs/rewrites.md

kernels: setup         ## compiles the fused GPU kernels for every kind of GPU, without one: trt_svc/assets, docs/kernels.md (minutes)
	$(BIN)/python -m trt_svc.kernels.ahead
	$(BIN)/python -m trt_svc.backends.plugin_kernels.building
	$(BIN)/python -m benchmarks.kernels_page > docs/kernels.md.part
	mv docs/kernels.md.part docs/kernels.md

cache-torture: setup   ## 200 kills, 10,000 damaged entries, 32 racing builds (some minutes)
	TRT_SVC_TORTURE=1 $(BIN)/python -m pytest tests/test_cache.py --timeout 3600

fuzz: setup            ## 100,000 odd calls, 100,000 small ones: no crash, no wrong length, no growth (some minutes)
	$(BIN)/python -m tests.fuzz

faults: setup          ## a lying backend, every fault many times (some minutes)
	TRT_SVC_TORTURE=1 $(BIN)/python -m pytest tests/test_faults.py --timeout 3600

long-take: setup       ## an hour through the demo voice: memory and seams (takes two hours of audio's time)
	$(BIN)/python -m benchmarks.long_take

stream-cost: setup     ## what streams compute twice, for every published network: docs/stream-cost.md
	$(BIN)/python -m benchmarks.stream_cost > docs/stream-cost.md.part
	mv docs/stream-cost.md.part docs/stream-cost.md

cold-start: setup      ## seconds from `trt-svc vocode` to its first samples: benchmarks/reports/cold-start (some minutes)
	$(BIN)/python -m benchmarks.cold_start

linear-cost: setup     ## cost and memory from 5 to 60 seconds in one call: benchmarks/reports/linear (most of an hour)
	$(BIN)/python -m benchmarks.linear_cost

bench: setup           ## the contenders under pytest-benchmark (some minutes)
	$(BIN)/python -m pytest benchmarks --benchmark-only

bench-quick: setup     ## the demo voice raced: benchmarks/reports/quick (two minutes)
	$(BIN)/trt-svc bench --recipe quick -o benchmarks/reports/quick

bench-cpu: setup       ## the reference cases on this machine's CPU: benchmarks/reports/cpu (most of an hour)
	$(BIN)/trt-svc bench --recipe cpu -o benchmarks/reports/cpu

bench-gpu: setup       ## every reference case on this machine's GPU: benchmarks/reports/gpu
	$(BIN)/trt-svc bench --recipe gpu -o benchmarks/reports/gpu

bench-song: setup      ## a whole song through a full-size so-vits-svc model: benchmarks/reports/song (half an hour)
	$(BIN)/python -m benchmarks.song -o benchmarks/reports/song

bench-song-memory: setup ## what songs of all lengths need in memory: benchmarks/reports/song/memory.md (hours)
	$(BIN)/python -m benchmarks.memory_of_songs

bench-truth: setup     ## does the harness tell the truth? known sleeps, known noise, cheats, on the real clock
	$(BIN)/python -m benchmarks.truth

# What the hosts themselves import beside our own packages.
hosts-setup: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[hosts]"

host-checks: hosts-setup ## other people's programs before and after `accelerate`: make host-checks HOSTS=DIR, with their checkouts
	$(BIN)/python -m benchmarks.hosts.run_all --hosts "$(or $(HOSTS),$(error HOSTS=DIR names the folder that holds the hosts' checkouts))"

host-speed: hosts-setup ## their vocoders at full size, before and after: benchmarks/reports/hosts/speed.json (long; BACKEND=openvino builds one engine each)
	$(BIN)/python -m benchmarks.hosts.run_all --hosts "$(or $(HOSTS),$(error HOSTS=DIR names the folder that holds the hosts' checkouts))" --speed --backend $(or $(BACKEND),auto)

native: setup          ## compiles the CPU kernels for every kind of machine: trt_svc/assets/native (minutes the first time)
	$(BIN)/python -m trt_svc.native.ship

readme-tables: setup   ## the tables of README.md and of pages in docs from benchmarks/reports
	$(BIN)/python -m benchmarks.readme_tables

gpu-validation: setup  ## every check that needs a GPU; says "skipped" where there is none
	$(BIN)/python -m tests.gpu.validate

lookahead-curve: setup ## what a stream of the demo voice loses by waiting less: docs/lookahead-demo.png
	$(BIN)/trt-svc lookahead-curve demo -o docs/lookahead-demo.png

evaluate: setup        ## held-out quality of the demo voice beside WORLD and an untrained network (some minutes)
	$(BIN)/python -m demo.evaluate

docs: setup
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv demo/out site .mypy_cache .ruff_cache .pytest_cache .hypothesis
