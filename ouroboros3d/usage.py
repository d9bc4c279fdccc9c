"""The short help of every command. The long one, `--help.all`, comes from the classes' own docstrings."""

_OPTIONS = """
options of all commands:
  --config FILE             an ablation or a run's config.yaml; later files win over earlier ones
  --model.X V               any value of the model, for example --model.sampler.num_steps 10
  --data.X V                any value of the data, for example --data.root PATH
  --trainer.X V             any value of Lightning's Trainer, for example --trainer.max_steps 100
  --runs DIR                where runs are kept (default: runs)
  --experiment NAME         first folder of the run (default: the name of the ablation's file)
  --version NAME            second folder of the run (default: version_N, the next free one)
  --print_config            print the whole configuration and stop
  --help.all                every option of the command and the Trainer, documented (takes some seconds)
  --model.help [CLASS], --data.help [CLASS]
                            every option of the model or the data, for example --model.help Recursive"""

HELP = {
    "": """usage: python -m ouroboros3d COMMAND [OPTIONS]

Ablation studies of image-to-3D generation: staged, inference-combined and recursive variants side by side.

commands:
  fit        train a variant:                fit --config ablations/recursive.yaml
  validate   losses and quality on the validation objects
  test       quality on the test objects:    test                (the newest run's best checkpoint)
  predict    one image to 3D:                predict --image photo.png
  ablate     fit, test and compare a suite:  ablate              (ablations/suite.yaml; the same command goes on)
  compare    tested runs side by side:       compare             (the newest tested run of each experiment)

COMMAND --help shows a command's options. Set OUROBOROS3D_DEBUG=1 to see the traceback of an error.
--version shows the version.""",
    "fit": f"""usage: python -m ouroboros3d fit --config ablations/NAME.yaml [OPTIONS]

Train a variant. The run goes to runs/NAME/version_N: config.yaml, checkpoints/, pictures/, TensorBoard events.

  --resume RUN              go on with a run that was cut off, in its own folder, exactly as if it had not been;
                            other options after it hold for the rest of the run only
  --ckpt_path FILE          go on from any checkpoint of the same variant, in a new run
  --model.base_weights FILE start from other weights: a .safetensors, a checkpoint, or null for random ones
  --trainer.max_steps N     how long to train
  --data.root DIR           an Objaverse tree instead of the bundled objects
{_OPTIONS}""",
    "validate": f"""usage: python -m ouroboros3d validate [--config FILE] [--ckpt_path FILE] [OPTIONS]

Losses and quality on the validation objects. Without arguments: the newest run's best checkpoint.
{_OPTIONS}""",
    "test": f"""usage: python -m ouroboros3d test [--config FILE] [--ckpt_path FILE] [OPTIONS]

Quality of generated views, of renders of the reconstructed 3D and of its surface on the test objects, and what it cost.
Writes results.json, results.csv (a row an object), steps.csv (a row a denoising step) and objects/ (views, renders,
Gaussians) into the run. A test that was interrupted goes on where it stopped. Without arguments: the newest run's best
checkpoint, and says which.

  --ckpt_path FILE          another checkpoint, with its own run's configuration unless --config gives another one;
                            a staged checkpoint also fits ablations/inference_combined.yaml and ablations/recursive.yaml
  --data.test_split train   other objects; the files are named after them: results_train.json
  --model.evaluation.alignment yaw|icp
                            align the surface with the true one before they are compared
  --trainer.devices 2 --trainer.strategy ddp
                            share the objects between processes
{_OPTIONS}""",
    "predict": f"""usage: python -m ouroboros3d predict --image FILE [--ckpt_path FILE] [OPTIONS]

One image to views, a 3D Gaussian ply and a turntable, in the run's predictions/ folder. Without --ckpt_path: the newest
run's best checkpoint. The object is taken from the alpha channel, or cut from a plain background.

  --image FILE              the image; may be given several times
  --elevation_deg DEGREES   how far above the object the photo was taken (default: 10)
{_OPTIONS}""",
    "ablate": """usage: python -m ouroboros3d ablate [SUITE] [OPTIONS] [-- OPTIONS OF EVERY FIT AND TEST]

Train every experiment of a suite with every seed, test all and compare them. Called again, the same command goes on:
what is done stays, an interrupted fit or test continues in its own run, what failed is tried again. The state is kept
in runs/ablate/SUITE/manifest.json, each task's output in logs/ beside it; the runs are runs/EXPERIMENT/SUITE-seed_N.

SUITE is a YAML file (default: ablations/suite.yaml, the paper's table). Options that are not listed here are given to
every fit and test: --config ablations/scales/lab.yaml, --trainer.max_steps 10, --data.root TREE.

options:
  --seeds N [N ...]         instead of the suite's
  --only NAME [NAME ...]    these experiments, and those whose weights they are tested with
  --jobs N                  tasks at a time (default: one a GPU, or without GPU one a core, at most 2)
  --runs DIR                where runs are kept (default: runs)
  --dry_run                 print the commands and stop""",
    "compare": """usage: python -m ouroboros3d compare [RUN ...] [OPTIONS]

Paired differences of tested runs over the same objects and seeds, with intervals. Prints a table; writes comparison.md,
comparison.csv, comparison.html and a TensorBoard dashboard. Runs that were not tested alike are refused.

RUN is a run's folder (runs/staged/version_0), or an experiment's (runs/staged), which stands for its newest tested run
and for the other tested runs that differ from it in nothing but the seed. Without RUN: all experiments.

options:
  --runs DIR                where runs are kept (default: runs)
  --out DIR                 where the comparison goes, in place of an earlier one (default: comparison in --runs)
  --baseline NAME           the variant that the others are held against (default: staged, or else the first one)
  --split NAME              whose objects were tested: test, val or train (default: test)
  --allow FIELD             compare although runs differ in this field of results.json; may be given several times
  --samples N               draws of the bootstrap (default: 10000)
  --seed N                  of the bootstrap (default: 0)

The dashboard: tensorboard --logdir runs/comparison, or make dashboard.""",
}
