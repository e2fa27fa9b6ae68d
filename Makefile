# Two commands on a fresh machine do everything: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check format benchmark clean

$(VENV)/ready: pyproject.toml model/cpu_mixer.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[test]'
	touch $@

demo: $(VENV)/ready
	$(BIN)/resurgsam2 segment examples/scene.mp4 --weights demo -o demo --overwrite \
		--text "left ultrasound probe=probe" --text "right bipolar forceps=forceps"
	@echo
	@echo "Look at the overlay:    $(CURDIR)/demo/scene/overlay.mp4"
	@echo "the label images:       $(CURDIR)/demo/scene/masks/"
	@echo "and the COCO file:      $(CURDIR)/demo/scene/annotations.json"

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2

check: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

benchmark: $(VENV)/ready
	$(BIN)/python benchmarks/full_size.py

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache demo
