"""Train a model: mmdet's or mmpretrain's own training tool, with errors explained.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CKPT]] [--amp] [--auto-scale-lr]
                             [--cfg-options KEY=VALUE ...] [--launcher pytorch]

Whose tool it is says the config's `default_scope`; it takes its own arguments, all of them.
"""

from mm_tool import run

if __name__ == '__main__':
    run('train.py', ('train_dataloader', 'val_dataloader'))
