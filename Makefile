# make lesson                            train on the drawn sample; needs no network but the package index
# make lesson DATA=pets ARCH=resnet34    train on the real data set; DATA= also takes a folder of your own
# make quick                             lint, types, notebooks and package in step, the fast tests
# make test                              lint, types, all notebooks, all tests
# make bench                             benchmark against plain fastai on the images in PETS_DIR; 35 minutes on two cores
# make bench-gpu                         benchmark the lesson on a GPU against plain fastai
# make notebooks                         open the notebooks in Jupyter
# make readme                            write README.md from nbs/index.ipynb

PYTHON ?= python3
DATA   ?= sample
ARCH   ?= efficientnet_lite0
OUT    ?= runs/$(shell date +%Y%m%d-%H%M%S)

BIN       := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALLED := .venv/installed

.PHONY: lesson quick lint test notebook-tests tests bench bench-gpu notebooks readme

lesson: $(INSTALLED)
	$(BIN)/pet-classifier train $(DATA) --arch $(ARCH) --out $(OUT)

quick: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check pet_classifier tests tools benchmarks setup.py
	$(BIN)/mypy

test: lint notebook-tests tests

notebook-tests: $(INSTALLED) # without lessons 1 to 5, which tests/test_lessons.py runs with the answers of their exercises
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --timing --skip_file_re '^([_.]|[1-5]_)'

tests: $(INSTALLED)
	$(BIN)/pytest -n logical --dist worksteal

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
