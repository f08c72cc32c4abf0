"""Test a detector: mmdet's own test tool, its arguments and all, with errors explained.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE.pkl] [--show-dir DIR]
                                       [--tta] [--cfg-options KEY=VALUE ...]
"""

from mmdet_tool import run

if __name__ == '__main__':
    run('test.py')
