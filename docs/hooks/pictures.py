"""The pictures of benchmarks/results on the pages that show them, which name them by their place in the repository."""

from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

FOLDER: Final = "benchmarks/results"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pictures to the site, below results."""
    for picture in sorted((Path(config.config_file_path).parent / FOLDER).glob("*.png")):
        files.append(File.generated(config, f"results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Names them by their place on the site."""
    return markdown.replace(f"](../{FOLDER}/", "](results/")
