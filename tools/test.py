"""Test a model: mmdet's or mmpretrain's own test tool, its arguments and all, errors explained.

python tools/test.py CONFIG CHECKPOINT [--work-dir DIR] [--out FILE.pkl] [--show-dir DIR]
                                       [--tta] [--cfg-options KEY=VALUE ...]

A student with a FlowNeck or a FlowClsHead can be tested with several numbers of flow steps at once;
see `python tools/test.py --nfe --help`:

python tools/test.py CONFIG CHECKPOINT --nfe 0 1 2 4 8 [--solver heun] [--work-dir DIR]
"""

import os.path as osp
import sys

from mm_tool import check_checkpoint, explained, run

LOADERS = ('test_dataloader',)


def keep_configs() -> None:
    """Let no Runner of this process write over the config that it read, or that a training left.

    A test may have other options, and `--tta` another model.
    """
    from mmengine.runner import Runner

    dump = Runner.dump_config

    def dump_config(runner: Runner) -> None:
        path = osp.join(runner.work_dir, osp.basename(runner.cfg.filename or ''))
        of_training = osp.isfile(osp.join(runner.work_dir, 'last_checkpoint'))
        if not osp.isfile(path) or not (of_training or osp.samefile(path, runner.cfg.filename)):
            dump(runner)

    Runner.dump_config = dump_config


if __name__ == '__main__':
    keep_configs()
    if any(argument.partition('=')[0] == '--nfe' for argument in sys.argv):
        with explained(LOADERS):
            from nfe_sweep import main

            main()
    else:
        if {'-h', '--help'} & set(sys.argv[1:]):
            print('A student with a flow, at several numbers of steps: --nfe N [N ...]; --nfe -h\n')
        check_checkpoint(sys.argv[1:])
        # the config that a resumed training leaves says "resume", which needs a training's state
        sys.argv += ['--cfg-options', 'resume=False']
        run('test.py', LOADERS)
