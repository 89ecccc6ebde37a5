# make lesson                            train on the drawn sample, no network but the package index
# make lesson DATA=pets ARCH=resnet34    the real thing; DATA= takes a folder of your own too
# make test                              notebooks, package and tests in step; all of them run
# make bench                             beside plain fastai, on the pictures that PETS_DIR names; 35 minutes on two cores
# make bench-gpu                         the lesson on a graphics card, beside plain fastai's
# make notebooks                         open the notebooks in Jupyter
# make readme                            README.md anew from nbs/index.ipynb

PYTHON ?= python3
DATA   ?= sample
ARCH   ?= efficientnet_lite0
OUT    ?= runs/$(shell date +%Y%m%d-%H%M%S)

BIN       := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALLED := .venv/installed

.PHONY: lesson test bench bench-gpu notebooks readme

lesson: $(INSTALLED)
	$(BIN)/pet-classifier train $(DATA) --arch $(ARCH) --out $(OUT)

test: $(INSTALLED)
	$(BIN)/ruff check pet_classifier tests tools benchmarks setup.py
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --timing
	$(BIN)/pytest -n auto --dist worksteal

bench: $(INSTALLED)
	$(BIN)/python benchmarks/two_cores.py --json benchmarks/two_cores.json

bench-gpu: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py --json benchmarks/gpu.json

notebooks: $(INSTALLED)
	$(BIN)/jupyter lab nbs

readme: $(INSTALLED)
	$(BIN)/python tools/readme.py

$(INSTALLED): settings.ini setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)
