"""The quick tests on every Python that this package is for, and with the newest packages that its bounds allow.

    make matrix                    # all of it; a Python that is not on this machine is skipped with a line
    make matrix NOX="-l"           # what there is
    make matrix NOX="-s tests-3.14 -- tests/runtime"    # one of them, and some of the tests

Each has an environment of its own in .nox/, which the next call uses again; uv shares the files of packages among them.
"""

import nox

nox.needs_version = ">=2026.10"
nox.options.default_venv_backend = "uv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"  # the Pythons of this machine are what is to be tested

PYTHONS = nox.project.python_versions(nox.project.load_toml("pyproject.toml"), max_version="3.14")
"""From the oldest that pyproject.toml allows."""


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The quick tests with the versions of constraints.txt."""
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")
    _pytest(session)


@nox.session
def newest(session: nox.Session) -> None:
    """The quick tests with the newest packages within the bounds of pyproject.toml."""
    session.install("--upgrade", "--editable", ".[dev]")
    session.run("uv", "pip", "freeze")
    _pytest(session)


def _pytest(session: nox.Session) -> None:
    session.run("python", "-m", "pytest", "-n", "2", "-m", "not long and not real and not slurm", *session.posargs)
