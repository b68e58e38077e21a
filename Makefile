# Every word works on a machine with only python3 (3.11+) and make; the first one makes .venv. `gpu` alone installs nothing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test test-slow mutants check browser docs pictures bench bench-learning gpu clean
.DELETE_ON_ERROR:

demo: $(INSTALLED)  ## the whole path on images it draws itself, a few minutes
	$(BIN)/simclr demo --out demo

test: $(INSTALLED)  ## the test suite, in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

mutants: $(INSTALLED)  ## do the tests of loss, LARS and schedule notice what is changed there?
	$(BIN)/python tests/mutants.py

check: $(INSTALLED)  ## format, lint, types, layout
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layout.py

browser:  ## Chromium from Debian's packages, for the tests of the search page; they are skipped without it
	command -v chromium >/dev/null || { timeout 240 apt-get update -qq \
		&& DEBIAN_FRONTEND=noninteractive timeout 600 apt-get install -qq --no-install-recommends chromium >/dev/null; } \
		|| echo "no Chromium here: the tests of the search page will be skipped"

docs: $(INSTALLED)  ## rebuild the pages that come from the code, then the site in site/, without network; dead links end it
	$(BIN)/python docs/make_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

pictures: $(INSTALLED) browser  ## docs/pictures and docs/session.txt anew, a quarter of an hour
	$(BIN)/python docs/make_pictures.py --work build/pictures

bench: $(INSTALLED)  ## measure against the peers; reports and the table land in benchmarks/; see benchmarks/README.md for LIGHTLY=, AUTOFAISS=, PHOTOS= and STORE=
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[all-cpu,dev,bench]'
	$(BIN)/python benchmarks/nt_xent.py
	$(BIN)/python benchmarks/chunked.py
	$(BIN)/python benchmarks/embed_cpu.py $(PHOTOS) $(if $(LIGHTLY),--lightly-python $(LIGHTLY))
	$(BIN)/python benchmarks/decode_cpu.py
	$(BIN)/python benchmarks/embed_memory.py
	$(BIN)/python benchmarks/embed_kills.py
	$(BIN)/python benchmarks/scan.py
	$(BIN)/python benchmarks/index_choice.py $(if $(AUTOFAISS),--autofaiss $(AUTOFAISS)) $(if $(STORE),--store $(STORE))
	$(BIN)/python benchmarks/index_large.py
	$(BIN)/python benchmarks/index_parts.py
	$(BIN)/python benchmarks/cost_curves.py
	$(BIN)/python benchmarks/index_kills.py
	$(BIN)/python benchmarks/index_flips.py
	$(BIN)/python benchmarks/serve.py $(if $(PHOTOS),--photos $(PHOTOS))
	$(BIN)/python benchmarks/views_cpu.py
	$(BIN)/python benchmarks/step_cpu.py

bench-learning: $(INSTALLED)  ## what is learned next to lightly, and the paper's findings, two hours: make bench-learning CIFAR=cifar10.npz CALTECH=caltech40
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[all-cpu,dev,bench]'
	for seed in 0 1 2; do for who in OURS LIGHTLY; do \
		$(BIN)/python benchmarks/learning_cpu.py run $$who cifar $$seed --data $(CIFAR) --out runs/learning || exit 1; \
		$(BIN)/python benchmarks/learning_cpu.py run $$who caltech $$seed --data $(CALTECH) --out runs/learning || exit 1; \
	done; done
	$(BIN)/python benchmarks/learning_cpu.py report --cifar $(CIFAR) --caltech $(CALTECH) --out runs/learning
	for arm in crop colour both batch-64 batch-1024; do for seed in 0 1 2; do \
		$(BIN)/python benchmarks/findings_cpu.py run $$arm $$seed --cifar $(CIFAR) --out runs/findings || exit 1; \
	done; done
	$(BIN)/python benchmarks/findings_cpu.py report --cifar $(CIFAR) --out runs/findings

gpu:  ## every GPU check of pretraining; needs torch, torchvision, timm and numpy; ARGS="--only step" for some
	PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py $(ARGS)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[all-cpu,dev]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache demo site build
