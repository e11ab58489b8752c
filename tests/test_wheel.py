"""A wheel built from this repository installs and runs elsewhere."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_wheel_installs_and_runs_elsewhere(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)],
        check=True,
        capture_output=True,
    )
    wheel = next((tmp_path / "dist").glob("tandem_rec-*.whl"))
    # The dependencies are those of this environment; the package itself comes from the wheel alone.
    venv.create(tmp_path / "env", with_pip=True, system_site_packages=False)
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    packages = next(path for path in map(Path, sys.path) if path.name == "site-packages")
    target = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    (target / "dependencies.pth").write_text(str(packages) + "\n")
    shown = subprocess.run(
        [python, "-c", "import rec, rl, serve, tune; print(rec.__file__)"], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 0 and str(tmp_path) in shown.stdout, shown.stderr
    assert (target / "rec" / "py.typed").is_file()
    validated = subprocess.run(
        [tmp_path / "env" / "bin" / "tandem", "data", "validate"], cwd=tmp_path, capture_output=True, text=True
    )
    assert validated.returncode == 0 and "n_rows" in validated.stdout, validated.stderr
