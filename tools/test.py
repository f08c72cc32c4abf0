"""Test a detector: mmdet's own test tool, its arguments and all, with errors explained.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE.pkl] [--show-dir DIR]
                                       [--tta] [--cfg-options KEY=VALUE ...]

A student with a FlowNeck can be tested with several numbers of flow steps at once; see
`python tools/test.py --nfe --help`:

python tools/test.py CONFIG CHECKPOINT --nfe 0 1 2 4 8 [--solver heun] [--work-dir DIR]
"""

import sys

from mmdet_tool import explained, run

if __name__ == '__main__':
    if '--nfe' in sys.argv:
        with explained():
            from nfe_sweep import main

            main()
    else:
        run('test.py')
