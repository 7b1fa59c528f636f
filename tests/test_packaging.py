"""What someone gets who installs from an index: every file that is read at run time, every package that is needed."""

import ast
import configparser
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import trl_score

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trl_score"

# Declared in setup.cfg although no file of the package imports them by name.
NOT_IMPORTED_BY_NAME = {
    "antlr4-python3-runtime": "runs the parser of latex2sympy2_extended, in the version that the tests pin",
    "sympy": "holds the expressions that math-verify compares",
    "accelerate": "launches the trainers, which reach it as `self.accelerator`",
    "deepspeed": "read by accelerate when a configuration of ds_configs/ is named",
    "peft": "read by TRL when a `peft_config` is given",
    "rich": "read by TRL when it prints the table of completions",
}
# Experiment trackers: imported where the user has chosen one, which then is installed.
OPTIONAL = {"trackio", "wandb"}
# Packages that are imported by another name than they are installed by.
INSTALLED_AS = {"yaml": "pyyaml"}


def shipped_files():
    return sorted(path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


@pytest.fixture(scope="module")
def setup_cfg():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(text):
    lines = (line.split("#")[0].strip() for line in text.splitlines())
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines if line}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist built from a copy of the checkout, and the wheel built from that sdist, as `make package` does."""
    checkout, dist = tmp_path_factory.mktemp("checkout") / "trl_score", tmp_path_factory.mktemp("dist")
    # Without what git ignores: a stale build/ or egg-info could lend the wheel a file that a fresh clone has not.
    shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "runs"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, checkout]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert result.returncode == 0, result.stdout + result.stderr
    return next(dist.glob("*.tar.gz")), next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def wheel_files(built):
    with zipfile.ZipFile(built[1]) as wheel:
        return {name: wheel.read(name) for name in wheel.namelist()}


@pytest.fixture(scope="module")
def wheel_metadata(wheel_files):
    name = next(name for name in wheel_files if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel_files[name].decode())


def test_wheel_holds_every_file_of_the_package_and_nothing_else(wheel_files):
    in_wheel = {name: content for name, content in wheel_files.items() if ".dist-info/" not in name}
    in_checkout = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in shipped_files()}
    assert sorted(in_wheel) == sorted(in_checkout)
    assert [name for name in in_checkout if in_wheel[name] != in_checkout[name]] == []


def test_wheel_is_typed_and_licensed(wheel_files):
    assert "trl_score/py.typed" in wheel_files
    licences = [name for name in wheel_files if name.endswith("/LICENSE")]
    assert len(licences) == 1
    assert b"Apache License" in wheel_files[licences[0]]


def test_wheel_metadata(wheel_metadata, setup_cfg):
    assert wheel_metadata["Name"] == "trl_score"
    assert wheel_metadata["Version"] == trl_score.__version__
    assert wheel_metadata["Requires-Python"] == ">=3.11"
    needed = {canonicalize_name(Requirement(line).name) for line in wheel_metadata.get_all("Requires-Dist")}
    assert needed >= set(requirements(setup_cfg["options"]["install_requires"]))


def test_wheel_installs_the_command_line(wheel_files):
    (declared,) = [content for name, content in wheel_files.items() if name.endswith(".dist-info/entry_points.txt")]
    assert declared.decode().split("\n")[:2] == ["[console_scripts]", "trl-score = trl_score.cli:main"]


def test_sdist_can_run_the_tests_and_the_examples(built):
    with tarfile.open(built[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    tested = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py")}
    assert tested <= names
    assert {"LICENSE", "Makefile", "README.md", "constraints-cpu.txt", "ruff.toml", "setup.cfg", "setup.py"} <= names


def test_every_folder_with_code_is_a_package():
    folders = {path.parent for path in shipped_files() if path.suffix == ".py"}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").is_file()] == []


def third_party_roots(source):
    """First names of all imports in a file, also those inside functions, but for the standard library and our own."""
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            imported.add(node.module.partition(".")[0])
    imported = {INSTALLED_AS.get(name, name) for name in imported}
    return {canonicalize_name(name) for name in imported - sys.stdlib_module_names - {"trl_score"}}


def test_every_third_party_import_is_declared_and_the_other_way_round(setup_cfg):
    declared = set(requirements(setup_cfg["options"]["install_requires"]))
    imported = set()
    for path in shipped_files():
        if path.suffix == ".py":
            imported |= third_party_roots(path.read_text())
    assert sorted(imported - declared - OPTIONAL) == []
    assert sorted(declared - imported - set(NOT_IMPORTED_BY_NAME)) == []


def test_constraints_pin_every_requirement_within_its_range(setup_cfg):
    pins = requirements((ROOT / "constraints-cpu.txt").read_text())
    assert [str(pin) for pin in pins.values() if not str(pin.specifier).startswith("==")] == []
    texts = [setup_cfg["options"]["install_requires"], setup_cfg["options.extras_require"]["dev"]]
    for needed in requirements("\n".join(texts)).values():
        version = str(pins[canonicalize_name(needed.name)].specifier).removeprefix("==")
        assert version in needed.specifier, f"constraints-cpu.txt pins {needed.name} {version}, outside {needed}"


def test_trl_floor_is_declared(setup_cfg):
    trl = requirements(setup_cfg["options"]["install_requires"])["trl"]
    assert "1.16.0" in trl.specifier
    assert "1.15.0" not in trl.specifier
