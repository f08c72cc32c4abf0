"""The worked example of docs/own_models.md is what it says."""

import re
import sys
from pathlib import Path

import pytest

import plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Write the example's two files, and go where they are."""
    text = (ROOT / 'docs' / 'own_models.md').read_text()
    for name in ('my_backbone', 'my_student'):
        block = re.search(rf'`{name}\.py`,[^\n]*\n\n```python\n(.*?)```', text, re.DOTALL)
        (tmp_path / f'{name}.py').write_text(block.group(1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield re.search(
        r'^PYTHONPATH=\. python tools/plan\.py (my_student.*) --check$', text, re.MULTILINE
    ).group(1)
    sys.modules.pop('my_backbone', None)


@pytest.mark.slow
def test_the_example_passes_its_checks(example, mmdet_scope, capsys):
    arguments = [*example.split(), '--check', '--size', '128', '128']
    assert plan.main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.count('pass') == 7 and 'terms: fmkt, wttm' in shown


def test_every_check_is_explained(example):
    from plan_check import Conformance

    class Empty(Conformance):
        def _build(self):
            return ''

    rows = (ROOT / 'docs' / 'own_models.md').read_text()
    names = [outcome.name for outcome in Empty(dict(model={}), (64, 64)).run()]
    assert len(names) == 7 and all(f'| {name} |' in rows for name in names)
