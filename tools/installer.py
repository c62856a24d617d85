"""uv where it can be had, with the indexes pip is configured for; standard library alone."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Mapping
from urllib.parse import urlparse
from urllib.request import url2pathname

# Keys of pip's configuration by the environment variable that tells uv the same.
LISTS = {"extra-index-url": ("UV_INDEX", " "), "find-links": ("UV_FIND_LINKS", ",")}
VALUES = {
    "index-url": "UV_DEFAULT_INDEX",
    "cert": "SSL_CERT_FILE",
    "default-timeout": "UV_HTTP_TIMEOUT",
}
# As pip has it: an option for `pip install` beats a global one, the environment beats both.
SECTIONS = ("global", "install", ":env:")


def parse_pip_config(listing: str) -> dict[str, str]:
    """Reads what `pip config list` prints into one value per key."""
    found: dict[tuple[str, str], str] = {}
    for line in listing.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in SECTIONS and value:
            found[section, key] = str(ast.literal_eval(value))
    keys = {key for _, key in found}
    return {key: next(found[s, key] for s in SECTIONS[::-1] if (s, key) in found) for key in keys}


def is_there(location: str) -> bool:
    """Whether a location is remote, or a path that exists: uv stops at one that does not."""
    parts = urlparse(location)
    if parts.scheme not in ("", "file"):
        return True
    return Path(url2pathname(parts.path)).exists()


def uv_environment(pip_config: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment that makes uv look where pip looks.

    What the user has set for uv is kept. Addresses pass through the environment alone: they may
    hold a password, and none is ever written down.
    """
    result = dict(environ)
    if any(name in environ for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX")):
        return result
    for key, name in VALUES.items():
        if key in pip_config:
            result.setdefault(name, pip_config[key])
    for key, (name, separator) in LISTS.items():
        there = [location for location in pip_config.get(key, "").split() if is_there(location)]
        if there:
            result.setdefault(name, separator.join(there))
    if "trusted-host" in pip_config:
        result.setdefault("UV_INSECURE_HOST", " ".join(pip_config["trusted-host"].split()))
    if pip_config.get("no-index", "").lower() in ("1", "true", "yes", "on"):
        result.setdefault("UV_NO_INDEX", "1")
    if "proxy" in pip_config:
        result.setdefault("ALL_PROXY", pip_config["proxy"])
    # pip weighs all indexes alike; uv by default stops at the first that knows the package.
    result.setdefault("UV_INDEX_STRATEGY", "unsafe-best-match")
    return result


def environment_for_uv(python: Path, *, extras: bool = True) -> dict[str, str]:
    """Returns `uv_environment` for the pip of an environment's Python.

    Args:
        python: The environment's Python.
        extras: Whether to pass on extra indexes and folders of wheels besides the main index.
    """
    listing = subprocess.run(
        [str(python), "-m", "pip", "config", "list"], stdout=subprocess.PIPE, check=False
    )
    environ = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    config = parse_pip_config(listing.stdout.decode())
    if not extras:
        config = {key: value for key, value in config.items() if key not in LISTS}
    return uv_environment(config, environ)


def find_uv(python: Path, *, fetch: bool) -> str | None:
    """Returns a uv: the environment's own, one on PATH, or (with `fetch`) one installed by pip."""
    own = python.parent / "uv"
    if not own.exists() and fetch:
        found = shutil.which("uv")
        if found:
            return found
        quiet = ["-qq", "--disable-pip-version-check"]
        subprocess.run([str(python), "-m", "pip", "install", *quiet, "uv"], check=False)
    return str(own) if own.exists() else shutil.which("uv")


def install(python: Path, lock: Path, project: Path) -> None:
    """Installs a lock and, editable, the project; by uv, or by pip where uv does not manage.

    Raises:
        subprocess.CalledProcessError: If pip cannot install it either.
    """
    # The build uses the locked setuptools, so that nothing unlocked is fetched for it.
    editable = ["--no-deps", "--no-build-isolation", "--editable", str(project)]
    steps = (["--requirement", str(lock)], editable)
    uv = find_uv(python, fetch=True)
    if uv:
        environ = environment_for_uv(python)
        quiet = [] if sys.stderr.isatty() else ["--quiet"]
        command = [uv, "pip", "install", "--python", str(python), *quiet]
        if all(subprocess.run([*command, *step], env=environ).returncode == 0 for step in steps):
            return
        print("uv could not install it; trying pip, which takes some minutes longer", flush=True)
    for step in steps:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *step], check=True)
