"""Tiny stand-ins for all models and data sets of the paper profile, and the sizes that go with them.

The models, Oxford-IIIT Pets and STL-10 (all their classes and images) and Winoground (a few examples) lie in a cache of
the hub under the names that the notebooks' settings give. Folders of four classes stand for ImageNet and its shifted
sets.
"""

import shutil

import yaml
from hub_cache import put, save_hub
from test_compositional import save_winoground
from test_filters import save_tiny_filters
from tiny import save_class_folder, save_tiny_clip, save_tiny_dit, save_tiny_networks, save_tiny_sd
from tiny_blip import save_tiny_blip

from diffclf.datasets.compositional import REVISION, WINOGROUND
from diffclf.models.mirrors import hub_name
from diffclf.workbook.settings import notebooks_dir, resolve

CLASSES = ("great_pyrenees", "pug", "red_cat", "samoyed")
NAMES = [name.replace("_", " ") for name in CLASSES]
PAPER = {"n_images": 5, "n_trials": 10, "n_repeats": 2}
N_EXAMPLES = 27
SETS = {"V2": 1, "A": 2, "O": 3}


def save_stand_ins(root):
    """Save the hub's cache (root/hub), the folders, and a copy of the notebooks that names them (root/notebooks)."""
    cache, settings = root / "hub", {number: resolve(name, "paper") for number, name in notebooks().items()}
    put_model(cache, settings["00"]["model"], save_tiny_sd(root / "sd"))
    for seed, name in enumerate(settings["12"]["checkpoints"]):
        if name != settings["00"]["model"]:
            put_model(cache, name, save_tiny_sd(root / f"sd-{seed}", seed=seed + 1))
    put_model(cache, settings["09"]["model"], save_tiny_dit(root / "dit", labels=NAMES))
    resnet, vit = save_tiny_networks(root, NAMES)
    for name in settings["09"]["networks"]:
        put_model(cache, name, resnet if "resnet" in name else vit)
    critic, checker = save_tiny_filters(root / "filters")
    clip = save_tiny_clip(root / "clip")
    large = settings["06"]["opponents"]["OpenCLIP ViT-H/14"]
    for name in {large, *settings["08"]["opponents"].values()}:
        put_model(cache, name, clip)
    put_model(cache, settings["07"]["filters"]["aesthetic"], critic)
    put_model(cache, settings["07"]["filters"]["safety"], checker)
    put_model(cache, settings["11"]["captioner"], save_tiny_blip(root / "blip"))
    put(cache, WINOGROUND, contents(save_winoground(root / "winoground", n=N_EXAMPLES + 3)), REVISION)
    for name in ("pets", "stl10"):
        for split in ("tune", "test"):
            save_hub(cache, name, split)

    images = str(save_class_folder(root / "images", CLASSES))
    sets = {name: str(save_class_folder(root / name, CLASSES, seed)) for name, seed in SETS.items()}
    task = {"images": 4, "tune": 2, "trials": [2, 4], "keep": [2, 1]}
    networks = {"dataset": images, "n_classes": 4, "n_test": 5, "n_images": 3, "n_trials": 8}
    changes = {
        "01": {"n_pairs": 8, "n_images": 8},
        "04": {"n_timed": 2},
        "05": {
            **{"class_dataset": images, "n_images": 4, "n_trials": 3, "n_dit_trials": 3, "n_dit_classes": 4},
            "shifted": {path: {"prompts": 4, "images": 3} for path in sets.values()},
        },
        "06": {
            **{"opponents": {"CLIP ResNet-50": large, "OpenCLIP ViT-H/14": large}, "n_tune": 4, "race_trials": 8},
            "tasks": {name: settings["06"]["tasks"][name] for name in ("pets", "stl10")},
        },
        "07": {"tasks": ["pets", "stl10"], "n_table": 5, "n_images": 2},
        "08": {"n_images": N_EXAMPLES, "n_trials": 3, "n_checked": 2},
        "09": networks,
        "10": networks | {"sets": sets, "n_pool": 4, "n_corrupted": 2, "n_shortcut": 2, "severities": [1]},
        "11": {"n_images": 5, "n_trials": 3, "n_map": 12, "n_judge": 2, "n_invert": 4, "n_steps": 2},
        "12": {
            **{"similar": ["pets"], "dissimilar": ["stl10"], "n_images": 4},
            "tasks": {"pets": task | {"classes": 37}, "stl10": task | {"classes": 10}},
        },
        "13": {"n_trials": 4, "n_tune": 4, "n_noise": 4},
        "14": {
            "race_trials": 16,
            "tasks": {"pets": {"classes": 37, "first": 4, "second": 2, "test": 4, "full": 2, "most": 200, "k": 0}},
            "growth": {"pets": {"classes": 37, "images": 2}},
        },
    }
    folder = shutil.copytree(notebooks_dir(), root / "notebooks")
    for number, name in notebooks().items():
        path = folder / f"{name}.yaml"
        content = yaml.safe_load(path.read_text())
        paper = content["settings"].setdefault("paper", {})
        paper |= {size: n for size, n in PAPER.items() if size in paper} | changes.get(number, {})
        content["settings"].get("all", {}).pop("least", None)
        path.write_text(yaml.safe_dump(content))
    common = yaml.safe_load((folder / "common.yaml").read_text())
    common["paper"] |= PAPER | {"solutions": True}
    (folder / "common.yaml").write_text(yaml.safe_dump(common))


def notebooks():
    """Return number -> name of each notebook."""
    return {path.stem[:2]: path.stem for path in sorted(notebooks_dir().glob("[0-9][0-9]_*.ipynb"))}


def contents(folder):
    """Return name -> bytes of the files below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def put_model(cache, name, folder):
    """Put a model into a cache of the hub under a hub id, which may carry a revision, or under a mirror's name."""
    repo, _, revision = hub_name(name).partition("@")
    at = {"commit": revision} if len(revision) == 40 else {"ref": revision or "main"}
    put(cache, repo, contents(folder), kind="model", **at)
