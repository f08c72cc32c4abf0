"""Train a model: mmdet's or mmpretrain's own training tool, with errors explained.

python tools/train.py CONFIG [--work-dir DIR] [--resume [CKPT]] [--amp] [--auto-scale-lr]
                             [--cfg-options KEY=VALUE ...] [--launcher pytorch]

Whose tool it is says the config's `default_scope`, or in pure Python the class of its model; it
takes its own arguments, all of them. A plain config is distilled, without writing a file, by
naming a teacher (docs/own_models.md):

python tools/train.py STUDENT_CONFIG --teacher TEACHER_CONFIG --teacher-checkpoint FILE
                                     [--distill fmkt wttm] [--check-teacher 200] [all of the above]
"""

import sys

from mm_tool import make_importable, run

if __name__ == '__main__':
    make_importable()
    from one_line import with_resolved_config

    sys.argv[1:] = with_resolved_config(sys.argv[1:])
    run('train.py', ('train_dataloader', 'val_dataloader'))
