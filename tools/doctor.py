#!/usr/bin/env python3
"""Says what is wrong with an environment for mmkd_fm, and the exact remedy.

Prints the versions, which compiled operators of mmcv work (they are really run, on the GPU too
where there is one), and what the known traps of this stack have to say. It also runs where torch or
mmcv is missing or broken. Takes some ten seconds.

Exit code: 1 if something is broken, else 0.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import sysconfig
from dataclasses import asdict

from doctor_checks import CHECKS, OK, STATUSES, Facts, Finding
from doctor_probe import GPU_ONLY, OPS, run_probe
from setup_mmcv import compiler_problem

# name -> the distributions that bring it, the usual one first
DISTRIBUTIONS = {
    'torch': ('torch',),
    'torchvision': ('torchvision',),
    'numpy': ('numpy',),
    'opencv': (
        'opencv-python',
        'opencv-python-headless',
        'opencv-contrib-python',
        'opencv-contrib-python-headless',
    ),
    'mmcv': ('mmcv', 'onedl-mmcv', 'mmcv-lite', 'mmcv-full'),
    'mmengine': ('mmengine', 'onedl-mmengine', 'mmengine-lite'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'pycocotools': ('pycocotools',),
    'transformers': ('transformers',),
    'setuptools': ('setuptools',),
    'mmkd_fm': ('mmkd_fm',),
}
OPTIONAL = {'torchvision', 'mmpretrain', 'transformers'}


def installed_version(names: tuple[str, ...]) -> str:
    """The version of the first distribution that is there, '' where none is."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ''


def collect() -> Facts:
    """Looks at this environment."""
    found = {'imports': {}, 'ops': {}}
    for message in run_probe():
        if 'module' in message:
            found['imports'][message['module']] = message['error']
        elif 'op' in message:
            found['ops'][message['op'], message['device']] = message['error']
        elif 'fact' in message:
            found[message['fact']] = message['value']
    source_tree = found.pop('mmkd_fm', '')
    versions = {name: installed_version(names) for name, names in DISTRIBUTIONS.items()}
    versions['mmkd_fm'] = versions['mmkd_fm'] or source_tree
    return Facts(
        python=sys.version_info[:2],
        versions=versions,
        environ=dict(os.environ),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
        compiler=compiler_problem('{}.{}'.format(*sys.version_info), sysconfig.get_path('include')),
        **found,
    )


def diagnose(facts: Facts) -> list[tuple[str, Finding]]:
    """Runs all checks; returns their names and what they found, without what is in order."""
    found = [(check.__name__, check(facts)) for check in CHECKS]
    return [(name, finding) for name, finding in found if finding is not OK]


def version_rows(facts: Facts) -> list[tuple[str, str]]:
    """Package and version, with the GPU."""
    rows = [('python', platform.python_version())]
    for name, version in facts.versions.items():
        if name == 'torch':
            version = facts.torch_build or version
        rows.append((name, version or ('none (optional)' if name in OPTIONAL else 'none')))
    cuda = facts.torch_cuda or 'none (CPU build)'
    rows.append(('CUDA of torch', cuda if facts.torch_build else 'unknown'))
    rows.append(('CUDA of mmcv', facts.mmcv_cuda or 'unknown'))
    rows.append(('GPU', facts.gpu or 'none'))
    return rows


def op_rows(facts: Facts) -> list[tuple[str, str, str]]:
    """Operator, and its state on the CPU and on the GPU."""

    def state(op: str, device: str) -> str:
        if (op, device) in facts.ops:
            return facts.ops[op, device] or 'works'
        if device == 'cpu' and op in GPU_ONLY:
            return 'GPU only (mmdet has its own for the CPU)'
        return '-' if device == 'cuda' and not facts.gpu else 'not tried'

    names = [op.__name__ for op in OPS]
    return [(name, state(name, 'cpu'), state(name, 'cuda')) for name in names]


def print_table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """With rich where it is there, else plain."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        widths = [max(map(len, column)) for column in zip(header, *rows)]
        for row in (header, *rows):
            print('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
        print()
    else:
        table = Table(*header)
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)


def main(argv: list[str] | None = None) -> int:
    """Looks, reports, and returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--json', action='store_true', help='print one JSON object instead')
    parser.add_argument('--quiet', action='store_true', help='print warnings and errors only')
    args = parser.parse_args(argv)

    facts = collect()
    found = diagnose(facts)
    count = {status: sum(f.status == status for _, f in found) for status in STATUSES}
    if args.json:
        report = {
            'ok': not count['broken'],
            'versions': dict(version_rows(facts)),
            'ops': [dict(zip(('op', 'cpu', 'cuda'), row)) for row in op_rows(facts)],
            'findings': [{'check': name, **asdict(finding)} for name, finding in found],
        }
        print(json.dumps(report, indent=2))
        return int(count['broken'] > 0)
    if args.quiet:
        found = [(name, finding) for name, finding in found if finding.status != 'note']
    else:
        print_table(('package', 'installed'), version_rows(facts))
        print_table(('operator of mmcv', 'CPU', 'GPU'), op_rows(facts))
    for name, finding in sorted(found, key=lambda item: STATUSES.index(item[1].status)):
        print(f'{finding.status.upper()} [{name}] {finding.text}')
        if finding.remedy:
            print(f'    remedy: {finding.remedy}')
    summary = ', '.join(f'{count[status]} {status}' for status in STATUSES)
    print(f'{len(CHECKS)} checks on {sys.executable}: {summary}')
    return int(count['broken'] > 0)


if __name__ == '__main__':
    sys.exit(main())
