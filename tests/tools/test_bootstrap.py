"""Which Python the set-up takes, what it says of the others, and where uv looks."""

import dataclasses
import os

import bootstrap
import installer
import interpreters
import pytest

DEBIAN_12 = {"glibc": (2, 36)}
DEBIAN_13 = {"glibc": (2, 41)}


def python(version, **said):
    numbers = tuple(int(n) for n in version.split("."))
    return interpreters.Interpreter(f"/somewhere/python{version}", numbers, **said)


def test_debian_12_takes_a_hidden_3_10_and_says_why_not_3_11():
    choice = interpreters.choose([python("3.11.2", **DEBIAN_12), python("3.10.13", **DEBIAN_12)])
    assert choice.taken.minor == "3.10"
    ((refused, why),) = choice.refused
    assert refused.minor == "3.11"
    assert why == "TFX 1.21 needs glibc >= 2.39, and this machine has 2.36"


def test_debian_13_takes_3_13_before_3_10_and_names_no_older_one():
    choice = interpreters.choose([python("3.10.13", **DEBIAN_13), python("3.13.5", **DEBIAN_13)])
    assert choice.taken.minor == "3.13"
    assert choice.refused == ()


def test_3_9_and_3_14_are_never_taken():
    choice = interpreters.choose([python("3.9.18", **DEBIAN_13), python("3.14.0", **DEBIAN_13)])
    assert choice.taken is None
    assert [why for _, why in choice.refused] == [
        "no TFX has wheels for Python 3.14",
        "no TFX has wheels for Python 3.9",
    ]


@pytest.mark.parametrize(
    ("said", "word"),
    [
        ({"implementation": "pypy"}, "pypy"),
        ({"machine": "aarch64"}, "aarch64"),
        ({"machine": "32-bit i686"}, "32-bit"),
        ({"system": "Darwin", "machine": "arm64"}, "Darwin on arm64"),
        ({"glibc": None}, "another C library"),
        ({"free_threaded": True}, "free-threaded"),
        ({"lacks": ("venv",)}, "venv"),
        ({"lacks": ("headers", "compiler")}, "C headers and a C++ compiler"),
    ],
)
def test_a_python_without_wheels_is_refused_for_its_own_reason(said, word):
    good = python("3.13.1", **DEBIAN_13)
    assert interpreters.why_not(good) is None
    assert word in interpreters.why_not(dataclasses.replace(good, **said))


@pytest.mark.parametrize(
    ("here", "wanted"),
    [
        ([python("3.11.2", **DEBIAN_12)], "`pyenv install 3.10`"),
        ([python("3.9.2", **DEBIAN_13)], "`pyenv install 3.13`"),
        ([python("3.13.5", lacks=("venv", "compiler"), **DEBIAN_13)], "python3.13-venv g++"),
        ([python("3.12.1", system="Darwin", machine="arm64")], "Darwin on arm64"),
        ([python("3.10.4", glibc=(2, 17))], "glibc >= 2.28 and this machine has glibc 2.17"),
        ([python("3.12.4")], "no glibc"),
    ],
)
def test_where_nothing_fits_one_sentence_says_what_to_install(here, wanted):
    assert interpreters.choose(here).taken is None
    advice = interpreters.advice(here)
    assert wanted in advice
    assert advice.endswith(".") and ". " not in advice and "\n" not in advice


def test_a_pyenv_python_is_found_behind_its_shims_and_the_shim_is_not_run(tmp_path):
    for folder in ("pyenv/shims", "pyenv/versions/3.10.13/bin"):
        (tmp_path / folder).mkdir(parents=True)
        file = tmp_path / folder / "python3.10"
        file.write_text("#!/bin/sh\nexit 127\n")
        file.chmod(0o755)
    found = interpreters.candidates({"PATH": str(tmp_path / "pyenv/shims")}, tmp_path / "home")
    assert os.path.realpath(tmp_path / "pyenv/versions/3.10.13/bin/python3.10") in found
    assert not [path for path in found if "shims" in path]


def test_an_executable_that_is_no_python_is_passed_over(tmp_path):
    fake = tmp_path / "python3.13"
    fake.write_text("#!/bin/sh\necho nonsense\n")
    fake.chmod(0o755)
    assert interpreters.probe_all([str(fake), str(tmp_path / "absent")]) == []


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A project with a lock, and a finished environment made from it."""
    monkeypatch.setattr(bootstrap, "ROOT", tmp_path)
    base = tmp_path / "python3.10"
    base.write_text("")
    base.chmod(0o755)
    (tmp_path / "requirements").mkdir()
    bootstrap.lock_of("3.10").write_text("numpy==1.26.4\n")
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(base)
    interpreter = interpreters.Interpreter(os.path.realpath(base), (3, 10, 13), **DEBIAN_12)
    installed = []
    monkeypatch.setattr(installer, "install", lambda *given: installed.append(given))
    monkeypatch.setattr(bootstrap, "take_interpreter", lambda asked: interpreter)
    stamp = bootstrap.stamp_for(interpreter.path, "3.10")
    (folder / bootstrap.STAMP).write_text(bootstrap.json.dumps(stamp))
    monkeypatch.delenv("UV_PROJECT_ENVIRONMENT", raising=False)
    return folder, installed


def test_a_second_run_installs_nothing(finished):
    _, installed = finished
    bootstrap.set_up(None)
    assert installed == []


def test_a_changed_lock_is_installed_once_into_the_same_environment(finished):
    folder, installed = finished
    (folder / "kept").write_text("")
    bootstrap.lock_of("3.10").write_text("numpy==1.26.3\n")
    bootstrap.set_up(None)
    bootstrap.set_up(None)
    assert len(installed) == 1 and (folder / "kept").exists()


def test_an_environment_left_half_made_is_remade(finished, monkeypatch):
    folder, installed = finished

    def killed(*_):
        raise KeyboardInterrupt

    bootstrap.lock_of("3.10").write_text("numpy==1.26.3\n")
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(installer, "install", killed)
        bootstrap.set_up(None)
    made = []
    (folder / "left").write_text("")
    monkeypatch.setattr(bootstrap.subprocess, "run", lambda command, **_: made.append(command))
    bootstrap.set_up(None)
    assert len(made) == len(installed) == 1 and not (folder / "left").exists()


def test_a_folder_of_someone_else_is_never_removed(finished, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter").write_text("dear")
    monkeypatch.setenv("UV_PROJECT_ENVIRONMENT", str(tmp_path / "home"))
    with pytest.raises(bootstrap.SetUpError, match="did not make"):
        bootstrap.set_up(None)
    assert (tmp_path / "home/letter").read_text() == "dear"


def test_uv_looks_where_pip_is_configured_to_look(tmp_path):
    listing = "\n".join(
        [
            "global.index-url='https://one.invalid/simple'",
            ":env:.index-url='https://two.invalid/simple'",
            f"global.find-links='{tmp_path} {tmp_path}/absent'",
            "global.extra-index-url='https://three.invalid/simple'",
        ]
    )
    config = installer.parse_pip_config(listing)
    environ = installer.uv_environment(config, {"PATH": "/bin"})
    assert environ["UV_DEFAULT_INDEX"] == "https://two.invalid/simple"
    assert environ["UV_INDEX"] == "https://three.invalid/simple"
    assert environ["UV_FIND_LINKS"] == str(tmp_path)


def test_what_the_user_told_uv_stays():
    config = {"index-url": "https://pip.invalid/simple"}
    environ = {"UV_DEFAULT_INDEX": "https://uv.invalid/simple"}
    assert installer.uv_environment(config, environ) == environ
