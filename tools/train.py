"""Train a detector: mmdet's own training tool, its arguments and all, with errors explained.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CKPT]] [--amp] [--auto-scale-lr]
                             [--cfg-options KEY=VALUE ...] [--launcher pytorch]
"""

from mmdet_tool import run

if __name__ == '__main__':
    run('train.py')
