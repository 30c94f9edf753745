PYTHON ?= python

.PHONY: lint types layers api test doctest docs build check release

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

types:
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --config-file benchmarks/mypy.ini

layers:
	$(PYTHON) -c "from importlinter.cli import lint_imports_command as lint; lint()"

api:
	$(PYTHON) tools/api.py

test:
	$(PYTHON) -m pytest

doctest:
	$(PYTHON) -m pytest -n0 --doctest-modules src/vaekit docs/_ext
	$(PYTHON) -m sphinx -q -b doctest docs docs/_build/doctest

docs:
	$(PYTHON) -m sphinx -W -n --keep-going -b html docs docs/_build/html

build:
	rm -rf dist
	$(PYTHON) -m build
	$(PYTHON) -m twine check --strict dist/*

check: lint types layers api test doctest docs build

release:
	PYTHON=$(PYTHON) tools/release.sh
