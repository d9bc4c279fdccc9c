"""The short help of every command. The long one, `--help.all`, comes from the classes' own docstrings."""

_VALUES = """
options of all commands:
  --config FILE             an ablation or a run's config.yaml; later files win over earlier ones
  --model.X V               any value of the model, for example --model.sampler.num_steps 10
  --data.X V                any value of the data, for example --data.root PATH
  --trainer.X V             any value of Lightning's Trainer, for example --trainer.max_steps 100
  --allow_package NAME      trust the classes of one more package: a configuration may name them
  --runs DIR                where runs are kept (default: runs)"""

_OPTIONS = f"""{_VALUES}
  --experiment NAME         first folder of the run (default: the name of the ablation's file)
  --version NAME            second folder of the run (default: version_N, the next free one); a configuration file may
                            say these three too: runs, experiment, version
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
  export     a pipeline of diffusers:        export              (the newest run's best checkpoint)
  ablate     fit, test and compare a suite:  ablate              (ablations/suite.yaml; the same command goes on)
  render     meshes to posed renders:        render TREE --out renders
  compare    tested runs side by side:       compare             (the newest tested run of each experiment)
  check-data images and cameras of a tree:   check-data TREE     (before anyone trains on it)

validate, test, predict and export need no training: where no run is they take the weights that come with this package.

COMMAND --help shows a command's options. Set OUROBOROS3D_DEBUG=1 to see the traceback of an error.
--version shows the version.""",
    "fit": f"""usage: python -m ouroboros3d fit --config ablations/NAME.yaml [OPTIONS]

Train a variant. The run goes to runs/NAME/version_N: config.yaml, checkpoints/, pictures/, TensorBoard events.

  --resume RUN              go on with a run that was cut off, in its own folder, exactly as if it had not been; other
                            options, such as another --model.optimizer.init_args.lr, hold until it ends or stops again
  --ckpt_path FILE          go on from any checkpoint of the same variant, in a new run
  --model.base_weights FILE start from other weights: a .safetensors, a checkpoint, bundled:recursive or bundled:staged,
                            which are trained and come with this package, or null for random ones
  --trainer.max_steps N     how long to train
  --moving_average V        share of itself that the average of the weights keeps at a step, which is what is tested and
                            exported (0: the last step's weights)
  --data.root DIR           a tree of meshes or renders instead of the bundled objects, or '[bundled, DIR, DIR]'
{_OPTIONS}""",
    "validate": f"""usage: python -m ouroboros3d validate [--config FILE] [--ckpt_path FILE] [OPTIONS]

Losses and quality on the validation objects. Without arguments: the newest run's best checkpoint, or where no run is
the weights that come with this package.
{_OPTIONS}""",
    "test": f"""usage: python -m ouroboros3d test [--config FILE] [--ckpt_path FILE] [OPTIONS]

Quality of generated views, of renders of the reconstructed 3D and of its surface on the test objects, and what it cost.
Writes results.json, results.csv (a row an object), steps.csv (a row a denoising step) and objects/ (views, renders,
Gaussians) into the run. A test that was interrupted goes on where it stopped. Without arguments: the newest run's best
checkpoint, or where no run is the recursive weights that come with this package, and says which.

  --config ablations/NAME.yaml
                            the newest run of this experiment, or the weights of staged and recursive that come with
                            this package; inference_combined takes those of staged
  --ckpt_path FILE          another checkpoint, with its own run's configuration unless --config gives another one;
                            a staged checkpoint also fits ablations/inference_combined.yaml and ablations/recursive.yaml
  --ckpt_path bundled:staged, bundled:recursive
                            the weights that come with this package, although there are runs
  --data.test_split train   other objects; the files are named after them: results_train.json
  --model.evaluation.alignment yaw|icp
                            align the surface with the true one before they are compared
  --axes NAME               of the plys: gl_yup (default), colmap, blender_zup, supersplat; whose is in docs/viewers.md
  --trainer.devices 2 --trainer.strategy ddp
                            share the objects between processes
{_OPTIONS}""",
    "predict": f"""usage: python -m ouroboros3d predict [--image FILE] [--ckpt_path FILE] [OPTIONS]

One image to views, a 3D Gaussian ply, a turntable and viewer.html, which turns in a browser at every denoising step; in
the run's predictions/ folder, with the cut-out that the network saw (input.png), an overview and prediction.json.
Without --ckpt_path: the newest run's best checkpoint, or where no run is the weights that come with this package. The
object is taken from the alpha channel, or cut from a plain background. Photos that cannot be used are listed and left
out; then it ends with code 1.

  --image FILE|DIR|PATTERN  the image, a folder of them, or a pattern such as 'photos/*.jpg'; may be given several times
                            (default: an example that comes with this package)
  --elevation_deg DEGREES   how far above the object the photo was taken (default: 10)
  --removal NAME            how the background is found where there is no alpha channel: border (default), of one colour
                            up to the image's border, or rembg, by a network (pip install 'ouroboros3d[rembg]')
  --mesh                    a textured mesh too: mesh.glb, and whether it is watertight
  --samples N               guesses at each photo, in NAME, NAME_1 and so on (default: 1)
  --seed N                  of the noise (default: the configuration's): another guess
  --run DIR                 the best checkpoint of this run, or of the newest run of this experiment
  --out DIR                 where the results' folders go (default: predictions/ in the run)
  --axes NAME               of the ply: gl_yup (default), colmap, blender_zup, supersplat; whose is in docs/viewers.md
{_OPTIONS}""",
    "export": f"""usage: python -m ouroboros3d export [--ckpt_path FILE] [--out DIR] [--dtype NAME] [OPTIONS]

A checkpoint as a pipeline of diffusers: safetensors, settings and a model card in one folder, which
ouroboros3d.export.OuroborosPipeline.from_pretrained loads and which generates what predict generates.

  --ckpt_path FILE          the checkpoint, with its own run's configuration unless --config gives another one
                            (default: the newest run's best one, or bundled:recursive where no run is)
  --out DIR                 a new folder (default: export/ in the checkpoint's run, or runs/export/NAME of bundled:NAME)
  --dtype NAME              precision of the weights in the files: float32 (default), float16 or bfloat16; an
                            autoencoder keeps the one that it was trained with
  --model.sampler.X V       what the pipeline does unless it is told otherwise
{_VALUES}""",
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
    "check-data": """usage: python -m ouroboros3d check-data ROOT [OPTIONS]

Find out whether a tree of posed renders is fit to train on: missing, empty, cut off or duplicate views, backgrounds
that are baked in, and cameras, depth and normal maps that do not belong to the images. Where silhouettes and cameras do
not fit together, the mistake that explains it is named: other axes, the inverse, mirrored or negated angles, another
field of view, exchanged views. Of a tree of meshes: counts, categories, licences, and files that cannot be rendered.

Writes report.html (pictures of the worst objects with axes, unit box and visual hull drawn on them) and skip_uids.txt
(objects that cannot be used, for --data.skip_uids). Ends with code 0 if there is no error in the data, 1 if there is,
130 if it was interrupted. `fit` refuses a tree of renders that failed, and leaves its broken objects out, unless
--data.ignore_check true; a verdict counts for the --reader, --views_per_object and --cache_dir that it was made with.

  --objects N               test the cameras of so many objects, evenly chosen (default: 32); images are read of all
  --all                     test the cameras of all objects
  --out DIR                 where the two files go (default: check-data/NAME-HASH, one for each tree)
  --reader NAME             the format of ROOT, where it is not clear
  --views_per_object N      how many views each object has at least, where that is fewer than the format promises
  --assume_rig              take renders without cameras for those of objaverse-rendering's defaults
  --workers N               processes that read views or try meshes (default: the cores)
  --cache_dir DIR           where the verdict is kept for fit (default: as fit's)""",
    "render": """usage: python -m ouroboros3d render ROOT --out DIR [OPTIONS]

Render a tree of meshes from posed cameras, without Blender, into the official layout: DIR/UID-00/ with meta.json and
render_0000.webp, ..., and train.txt, val.txt, test.txt. Train from it with --data.root DIR. The same command goes on
after an interruption. Each object is rendered in a process of its own; what cannot be rendered is listed with its
reason in DIR/failures.jsonl and left out of later runs. Ends with code 1 if no object could be rendered.

which objects:
  --reader NAME             the format of ROOT, where it is not clear
  --up y|z                  the files' upward axis (default: z for Google Scanned Objects, else y)
  --categories NAME [...]   of these LVIS categories
  --uids UID [...] | FILE   these; a file has one a line, or is a JSON array
  --max_objects N           the first N of them

views:
  --size N                  height and width in pixels (default: 512)
  --views N                 views of an orbit (default: 16)
  --orbits N                orbits of an object, each at an elevation of its own (default: 1)
  --elevation_deg LOW HIGH  lowest and highest elevation (default: -5 30)
  --radius R                from the object's centre; objects have a longest edge of at most 1 (default: 1.7417)
  --fov_deg DEGREES         the whole field of view (default: 39.598)
  --supersampling N         rays per pixel along each axis (default: 2)
  --light X                 0 = unlit base colour, 1 = light from the camera only (default: 0)
  --seed N                  of elevations and start azimuths (default: 0)
  --maps NAME [...]         depth, normal, coordinate: further files of every view
  --surface_points N        points and normals of the true surface, and solid cells, beside the first orbit
  --shards MIB              pack the orbits into WebDataset shards of this size when all are rendered

work:
  --workers N               objects at a time (default: the cores, or what a Ray cluster has room for)
  --ray_address ADDRESS     render on a Ray cluster: auto, HOST:PORT, or local for one on this machine; all its machines
                            see ROOT and DIR under these paths (pip install 'ouroboros3d[ray]')
  --cpus_per_worker N       CPUs that a worker on the cluster reserves (default: 1)
  --device cpu|cuda         what renders (default: cpu); pixels of one differ from the other's by rounding
  --gpus_per_worker X       share of a GPU that a worker takes (default: 1; 0.25 lets four share one)
  --timeout_s S             limit per object (default: 120)
  --memory_mib N            limit per object, of a GPU's memory too (default: 6144)
  --retry_failed            try objects again that failed before""",
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
  --mark_unlike             say better and worse also of runs that were trained unalike (steps, batch, base weights,
                            data, learning rates)

The dashboard: tensorboard --logdir runs/comparison, or make dashboard.""",
}
