"""The example of docs/off-policy.md runs, and prints what the page says of it."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "off-policy.md"


def test_the_example_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    exec(compile(code.group(1), str(PAGE), "exec"), {})
    printed = [line.split() for line in capsys.readouterr().out.splitlines()]
    value = {words[0]: float(words[1]) for words in printed}
    width = {words[0]: float(words[3].rstrip("]")) - float(words[2].strip("[,")) for words in printed[:-1]}
    assert value["truth"] == 0.2685
    assert value["dm"] == 0.131 and width["dm"] == 0.0
    for name in ("ips", "snips", "dr"):
        assert abs(value[name] - value["truth"]) < width[name] / 2
    assert width["snips"] < width["ips"] and width["dr"] < width["ips"]
    assert all(words[-1] == "775" for words in printed[:-1])
