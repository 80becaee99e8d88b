# make demo    a sandbox of three servers, and the tutorial played on it
# make test    format, lints, unit tests, end-to-end tests on real servers, once on each io_driver
# make sim     SEEDS=10000 runs of the simulator, on all cores; ARGS=--help says what else it can do
# make bench   bench/compare: against direct servers, Pgpool-II and PgBouncer
# make fuzz    each fuzz target for SECONDS seconds (60)
# make deps    PostgreSQL's server programs and the clients that the tests use, from Debian's packages if they are
#              missing; what Debian does not have, or not new enough, from PyPI and npm into target/clients

CARGO ?= cargo
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
APT := DEBIAN_FRONTEND=noninteractive apt-get -qq -o=Dpkg::Use-Pty=0

.PHONY: all demo test check sim bench fuzz deps server-deps test-deps bench-deps
all: demo

demo: server-deps
	$(CARGO) build --release --locked
	target=$${CARGO_TARGET_DIR:-target}; "$$target/release/pglockstep" demo

test: deps check
	$(CARGO) test --locked --lib --bins
	for driver in ring glommio; do \
	  $(CARGO) test --locked --lib -- --ignored running_out_of_descriptors_is_survived_by_$$driver || exit 1; \
	done
	$(CARGO) test --locked --doc
	$(CARGO) test --locked --test '*' -- --test-threads=2
	PGLOCKSTEP_TEST_IO_DRIVER=glommio $(CARGO) test --locked $(addprefix --test ,$(DRIVER_TESTS)) -- --test-threads=2

# The first run is on the driver that this kernel allows best, the second on glommio. It leaves out what has no proxy in
# it (servers, proof, sim_node), and what chooses the driver by itself (io_driver).
DRIVER_TESTS = $(filter-out servers proof sim_node io_driver,$(patsubst tests/%.rs,%,$(wildcard tests/*.rs)))

# Format and lints. A Rust without rustfmt or clippy gets them through rustup, else that half is left out, with a word.
check:
	@for part in fmt clippy; do \
	  $(CARGO) $$part --version >/dev/null 2>&1 && continue; \
	  component=$$part; [ $$part = fmt ] && component=rustfmt; \
	  echo "cargo $$part is missing: rustup component add $$component"; \
	  rustup component add $$component || echo "NOT CHECKED: cargo $$part cannot be had here"; \
	done
	! $(CARGO) fmt --version >/dev/null 2>&1 || $(CARGO) fmt --check
	! $(CARGO) clippy --version >/dev/null 2>&1 || $(CARGO) clippy --locked --all-targets -- -D warnings

SEEDS ?= 1000
sim:
	$(CARGO) run --release --locked --example sim -- --seeds 0..$(SEEDS) $(ARGS)

bench: server-deps bench-deps
	$(CARGO) build --release --locked
	$(CARGO) build --release --locked --example delay
	bench/compare

deps: server-deps test-deps

# RUSTC_BOOTSTRAP: cargo-fuzz's instrumentation is a nightly flag; without a sanitizer a stable compiler serves.
SECONDS ?= 60
fuzz:
	command -v cargo-fuzz >/dev/null || $(CARGO) install --locked cargo-fuzz
	for target in frontend backend startup sql session; do \
	  mkdir -p fuzz/corpus/$$target fuzz/seeds/$$target; \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(SECONDS) || exit 1; \
	done

# The same places as the sandbox looks in: PATH, pg_config, Debian's directories.
server-deps:
	@for dir in $$(echo "$$PATH" | tr : ' ') "$$(pg_config --bindir 2>/dev/null)" /usr/lib/postgresql/*/bin; do \
	  [ -x "$$dir/initdb" ] && [ -x "$$dir/postgres" ] && [ -x "$$dir/psql" ] && [ -x "$$dir/pgbench" ] && exit 0; \
	done; \
	echo "PostgreSQL's server programs are missing: installing Debian's packages postgresql and postgresql-contrib"; \
	$(call install,postgresql postgresql-contrib)

# The clients of tests/clients. SQLAlchemy 2 is not in every Debian, and Debian's node-pg does not go with another
# node than Debian's.
CLIENTS = $(or $(CARGO_TARGET_DIR),target)/clients
PYTHON_PACKAGES = sqlalchemy==2.0.36
NODE_PACKAGES = pg@8.16.3 pg-cursor@2.15.3 pg-copy-streams@7.0.0

test-deps:
	@missing=; \
	/usr/bin/python3 -c 'import psycopg' 2>/dev/null || missing="$$missing python3-psycopg"; \
	/usr/bin/python3 -c 'import asyncpg' 2>/dev/null || missing="$$missing python3-asyncpg"; \
	/usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; \
	command -v node >/dev/null || missing="$$missing nodejs"; \
	command -v npm >/dev/null || missing="$$missing npm"; \
	[ -z "$$missing" ] && exit 0; \
	echo "the tests need Debian's packages$$missing: installing them"; \
	$(call install,$$missing)
	@[ "$$(cat $(CLIENTS)/packages 2>/dev/null)" = "$(PYTHON_PACKAGES) $(NODE_PACKAGES)" ] && exit 0; \
	echo "the tests need $(PYTHON_PACKAGES) from PyPI and $(NODE_PACKAGES) from npm: into $(CLIENTS)"; \
	mkdir -p $(CLIENTS)/node && \
	/usr/bin/python3 -m venv --clear --system-site-packages $(CLIENTS)/python && \
	$(CLIENTS)/python/bin/pip install --quiet --disable-pip-version-check $(PYTHON_PACKAGES) && \
	npm install --silent --no-audit --no-fund --no-package-lock --prefix $(CLIENTS)/node $(NODE_PACKAGES) && \
	echo "$(PYTHON_PACKAGES) $(NODE_PACKAGES)" >$(CLIENTS)/packages

bench-deps:
	@missing=; \
	[ -x /usr/sbin/pgpool ] || missing="$$missing pgpool2"; \
	[ -x /usr/sbin/pgbouncer ] || missing="$$missing pgbouncer"; \
	[ -z "$$missing" ] && exit 0; \
	echo "the comparison needs Debian's packages$$missing: installing them"; \
	$(call install,$$missing)

# One shell command; $(1) is a list of packages.
define install
command -v apt-get >/dev/null || { echo "there is no apt-get here: please install $(1) by hand"; exit 1; }; \
[ -z "$(SUDO)" ] || command -v sudo >/dev/null || { echo "that needs root or sudo: please run make deps as root"; exit 1; }; \
$(SUDO) env $(APT) update && $(SUDO) env $(APT) install -y --no-install-recommends $(1)
endef
