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

COMMAND --help shows a command's options. Set OUROBOROS3D_DEBUG=1 to see the traceback of an error.
--version shows the version.""",
    "fit": f"""usage: python -m ouroboros3d fit --config ablations/NAME.yaml [OPTIONS]

Train a variant. The run goes to runs/NAME/version_N: config.yaml, checkpoints/, pictures/, TensorBoard events.

  --ckpt_path FILE          resume from a checkpoint of the same variant, exactly where it stopped
  --model.base_weights FILE start from other weights: a .safetensors, a checkpoint, or null for random ones
  --trainer.max_steps N     how long to train
  --data.root DIR           an Objaverse tree instead of the bundled objects
{_OPTIONS}""",
    "validate": f"""usage: python -m ouroboros3d validate [--config FILE] [--ckpt_path FILE] [OPTIONS]

Losses and quality on the validation objects. Without arguments: the newest run's best checkpoint.
{_OPTIONS}""",
    "test": f"""usage: python -m ouroboros3d test [--config FILE] [--ckpt_path FILE] [OPTIONS]

Quality of generated views and of renders of the reconstructed 3D on the test objects. Writes results.json, results.csv
and pictures/ into the run. Without arguments: the newest run's best checkpoint, and says which.

  --ckpt_path FILE          another checkpoint, with its own run's configuration unless --config gives another one;
                            a staged checkpoint also fits ablations/inference_combined.yaml and ablations/recursive.yaml
{_OPTIONS}""",
    "predict": f"""usage: python -m ouroboros3d predict --image FILE [--ckpt_path FILE] [OPTIONS]

One image to views, a 3D Gaussian ply and a turntable, in the run's predictions/ folder. Without --ckpt_path: the newest
run's best checkpoint. The object is taken from the alpha channel, or cut from a plain background.

  --image FILE              the image; may be given several times
  --elevation_deg DEGREES   how far above the object the photo was taken (default: 10)
{_OPTIONS}""",
}
