# make lesson                            train on the drawn sample; needs no network but the package index
# make lesson DATA=pets ARCH=resnet34    train on the real data set; DATA= also takes a folder of your own
# make quick                             lint, types, notebooks and package in step, the fast tests
# make test                              lint, types, all notebooks, all tests
# make bench                             benchmark against plain fastai on the images in PETS_DIR; 35 minutes on two cores
# make bench-gpu                         benchmark the lesson on a GPU against plain fastai
# make notebooks                         open the notebooks in Jupyter
# make readme                            write README.md from nbs/index.ipynb
# make docs                              build the documentation site in _docs, and follow its links
# make dist                              build and check the source distribution and the wheel in dist; TAG=v1.2.3 checks a release

PYTHON ?= python3
DATA   ?= sample
ARCH   ?= efficientnet_lite0
OUT    ?= runs/$(shell date +%Y%m%d-%H%M%S)

SCRIPTS    := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
BIN        := .venv/$(SCRIPTS)
INSTALLED  := .venv/installed
PUBLISH    := .venv-publish/$(SCRIPTS)
PUBLISHING := .venv-publish/installed

.PHONY: lesson quick lint test notebook-tests tests bench bench-gpu notebooks readme docs dist

lesson: $(INSTALLED)
	$(BIN)/pet-classifier train $(DATA) --arch $(ARCH) --out $(OUT)

quick: lint
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check pet_classifier tests tools benchmarks docs setup.py
	$(BIN)/mypy

test: lint notebook-tests tests

notebook-tests: $(INSTALLED) # without lessons 1 to 5, which tests/test_lessons.py runs with the answers of their exercises
	OMP_NUM_THREADS=1 $(BIN)/nbdev-test --timing --skip-file-re '^([_.]|[1-5]_)'

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

docs: $(PUBLISHING)
	$(PUBLISH)/python tools/docs.py
	$(PUBLISH)/python -m sphinx -q -W --keep-going -E -c docs _proc _docs
	$(PUBLISH)/python tools/check_links.py _docs

dist: $(PUBLISHING)
	rm -rf build dist
	$(PUBLISH)/python -m build --quiet
	$(PUBLISH)/python -m twine check --strict dist/*
	$(PUBLISH)/python tools/release.py $(TAG)

$(INSTALLED): settings.ini setup.py pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $(INSTALLED)

# without torch: neither the documentation nor the distributions need the package installed
$(PUBLISHING): settings.ini constraints.txt
	$(PYTHON) -m venv .venv-publish
	sed -nE 's/^(docs|release)_requirements = //p' settings.ini | tr ' ' '\n' > .venv-publish/requirements.txt
	$(PUBLISH)/python -m pip install -q -c constraints.txt -r .venv-publish/requirements.txt
	touch $(PUBLISHING)
