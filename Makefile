# Every target sets up what it needs (a virtual environment in .venv) and starts at once the second time.
# PYTHON=python3.12 chooses an interpreter; ARGS="…" is handed on to demo, test (pytest) and bench.

PYTHON ?= python3
export PYTHON
# An ordinary user's PATH on Debian lacks the folders of bird and sysctl.
export PATH := $(PATH):/usr/sbin:/sbin

BENCHES := bench/fib.py bench/babel.py bench/verify.py bench/web.py

.PHONY: help demo web test check bench soak fuzz install uninstall clean
.NOTPARALLEL:

help:
	@echo 'make demo    an IPv6-only network passes IPv4, before your eyes (root or not; touches nothing of this machine)'
	@echo 'make web     the live view in the browser (ARGS="--lab FILE", for example; fetches its libraries with npm, this once)'
	@echo 'make test    the tests; as root all of them, otherwise those that need no root, and the others are named'
	@echo 'make check   style, types, and 200 simulated networks: ruff, mypy, soak'
	@echo 'make bench   speed beside ip -batch, pyroute2 and BIRD (root; ARGS=--quick for a short look)'
	@echo 'make soak    simulated networks until told to stop (ARGS="--seconds 600"; --seed N replays one)'
	@echo 'make fuzz    the Babel decoder against atheris (ARGS=-max_total_time=600; what it finds lies in .cache/fuzz)'
	@echo 'make install via6, its man pages and systemd units below /usr/local (root); make uninstall takes them away'
	@echo 'make clean   remove what these made here'

demo:
	@case "$(ARGS)" in *--desktop*) sh web/build && bin=$$(sh scripts/venv web) ;; *) bin=$$(sh scripts/venv) ;; esac && \
	 exec "$$bin/via6" demo $(ARGS)

web:
	@sh web/build && bin=$$(sh scripts/venv web) && exec "$$bin/via6" web $(ARGS)

test:
	@bin=$$(sh scripts/venv dev) && sh scripts/test-tools && exec sh scripts/tests "$$bin/python" $(ARGS)

check:
	@bin=$$(sh scripts/venv dev) && "$$bin/ruff" check . && "$$bin/ruff" format --check . && "$$bin/mypy" && \
	 exec "$$bin/python" -m via6.lab.soak --from 10000 --count 200 --seconds 600

soak:
	@bin=$$(sh scripts/venv) && exec "$$bin/python" -m via6.lab.soak $(ARGS)

fuzz:
	@bin=$$(sh scripts/venv dev) && "$$bin/python" -m pip install -q atheris && mkdir -p .cache/fuzz/corpus && \
	 exec "$$bin/python" fuzz/babel_wire.py -artifact_prefix=.cache/fuzz/ -max_total_time=60 $(ARGS) .cache/fuzz/corpus

bench:
	@bin=$$(sh scripts/venv dev) && for b in $(BENCHES); do "$$bin/python" "$$b" $(ARGS) || exit; done

install:
	@sh packaging/install.sh

uninstall:
	@sh packaging/install.sh --uninstall

clean:
	@rm -rf "$$(sh scripts/venv where)" .mypy_cache .ruff_cache dist
	@find src tests bench -name __pycache__ -prune -exec rm -rf {} +
