"""What counts as the output that a page shows, and how the notes of a page are read."""

from __future__ import annotations

from pathlib import Path

import page_blocks
import pytest
from page_blocks import blocks_of, has_shape

PAGE = """\
# A page

<!-- not run: needs a
cluster -->

```sh
kubectl get pods
```

<!-- exit code: 1 -->

```sh
false
```

```text
nothing 1
```

```json
{}
```
"""


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("a 1.5 b", "a 2 b", True),
        ("a  1,100\n b", "a 2 b", True),
        ("a x b", "a 2 b", False),
        ("x\ny 1\nz", "…\ny 3\n…", True),
        ("x y 1", "… y 3", True),
        ("x y 1 z", "… y 3", False),
        ("q y 1", "y 3", False),
        ("one two", "one … three", False),
        ("", "…", True),
    ],
)
def test_numbers_may_differ_and_words_may_not(printed: str, shown: str, same: bool) -> None:
    assert has_shape(printed, shown) == same


def test_a_page_says_what_is_not_run_and_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_blocks, "ROOT", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    first, second = blocks_of(tmp_path / "page.md")
    assert (str(first), first.not_run, first.exit_code, first.output) == ("page.md:6", "needs a cluster", 0, None)
    assert (str(second), second.not_run, second.exit_code, second.output) == ("page.md:12", None, 1, "nothing 1\n")
