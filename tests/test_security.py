"""Models, images, prompt files, banks and parameters from strangers run no code, write nowhere else, fetch nothing."""

import ast
import io
import json
import os
import pickle
import re
import shutil
import socket
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from bank_killer import IMAGES
from bs4 import BeautifulSoup
from notebook_maker import make_claim, write_notebook
from papermill.translators import PythonTranslator
from PIL import Image
from safetensors.torch import load_file
from test_filters import save_tiny_filters
from tiny import edit_json, save_class_folder, save_tiny_clip, save_tiny_networks, save_tiny_sd
from tiny_blip import save_tiny_blip

import diffclf
from diffclf.bank import ErrorBank
from diffclf.baselines.contrastive import load_contrastive
from diffclf.baselines.features import load_features
from diffclf.baselines.supervised import load_supervised
from diffclf.commands.main import main
from diffclf.datasets.compositional import _Archive
from diffclf.datasets.filters import load_checker, load_critic
from diffclf.experiments import inversion
from diffclf.images import MAX_PIXELS, ImageError, load_images
from diffclf.models import ModelError, load_model
from diffclf.prompts import MAX_BYTES, read_prompts
from diffclf.trials import TrialList
from diffclf.workbook import Workbook, display, interactive
from diffclf.workbook.report.build import _front_page
from diffclf.workbook.results import read_judged
from diffclf.workbook.run.plan import plan
from diffclf.workbook.run.runner import reproduce
from diffclf.workbook.settings import chosen_profile

CODE = Path(diffclf.__file__).parent
CALLS = [node for file in sorted(CODE.rglob("*.py")) for node in ast.walk(ast.parse(file.read_text()))]
CALLS = [(ast.unparse(node.func), ast.unparse(node)) for node in CALLS if isinstance(node, ast.Call)]
SCRIPT = "<script>document.title = 'ran'</script>"
HOSTILE = ["<img src=x onerror=alert(1)>", f"</td>{SCRIPT}", '" onload="alert(1)', "```\n{raw} html", "{{ 7 * 7 }}"]


# Code that comes with a model


class Evil:
    """Pickles as a command that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_the_package_has_no_way_to_run_what_it_reads():
    never = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "os.system", "joblib.load"}
    assert [call for name, call in CALLS if name in never] == []
    assert [call for name, call in CALLS if name == "torch.load" and "weights_only=True" not in call] == []
    assert [call for _, call in CALLS if "shell=True" in call or "allow_pickle" in call] == []
    automatic = [call for name, call in CALLS if re.match(r"Auto[A-Z]\w+\.from_pretrained$", name)]
    # A network's class follows from its configuration, in which `load_image_network` has refused code already.
    assert len(automatic) >= 4 and [call for call in automatic if "trust_remote_code=False" not in call] == []
    assert "trust_remote_code=True" not in str(CALLS)


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Folders of tiny networks, and the function that loads each kind."""
    folder = tmp_path_factory.mktemp("networks")
    clip = save_tiny_clip(folder / "clip")
    critic, checker = save_tiny_filters(folder / "filters")
    resnet, vit = save_tiny_networks(folder, ["a", "b"])
    blip = save_tiny_blip(folder / "blip")
    data = SimpleNamespace(name="photos", images=[np.zeros((32, 32, 3), np.uint8)])
    return {
        "clip": (clip, load_contrastive),
        "resnet": (resnet, load_supervised),
        "vit": (vit, load_supervised),
        "critic": (critic, load_critic),
        "checker": (checker, load_checker),
        "blip": (blip, lambda name: inversion._blip_captions(data, str(name))),
    }


@pytest.fixture
def copy(networks, tmp_path, monkeypatch):
    """Return a function that copies one network's folder; code that runs would make `marker`."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked whether to run code"))
    return lambda kind: (Path(shutil.copytree(networks[kind][0], tmp_path / kind)), networks[kind][1])


@pytest.mark.parametrize("kind", ["clip", "resnet", "vit", "critic", "checker", "blip"])
def test_code_beside_a_network_is_refused(copy, kind, tmp_path):
    folder, load = copy(kind)
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n")
    classes = {"AutoConfig": "evil.C", "AutoImageProcessor": "evil.P", "AutoTokenizer": ["evil.T", "evil.T"]}
    classes |= {"AutoModelForImageClassification": "evil.M", "AutoModel": "evil.M"}
    for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (folder / file).is_file():
            changes = {"auto_map": classes}
            changes |= {"model_type": "evil"} if file == "config.json" and kind in ("clip", "resnet", "vit") else {}
            changes |= {"image_processor_type": "Evil"} if file == "preprocessor_config.json" else {}
            edit_json(folder / file, **changes)
    with pytest.raises((ModelError, ValueError, OSError)):
        load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["clip", "resnet", "critic", "checker", "blip"])
@pytest.mark.parametrize("named", ["pytorch_model.bin", "model.safetensors", "shards"])
def test_pickled_weights_are_refused(copy, kind, named, tmp_path):
    folder, load = copy(kind)
    keys = list(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    file = "weights-1.bin" if named == "shards" else named
    torch.save({key: Evil(tmp_path / "ran") for key in keys}, folder / file)
    if named == "shards":
        index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(keys, file)}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((ModelError, OSError, ValueError) if kind != "blip" else Exception, match="safetensors|header"):
        load(folder)
    assert not (tmp_path / "ran").exists()


def test_code_beside_a_pipeline_is_refused(tmp_path):
    folder = save_tiny_sd(tmp_path / "sd")
    code = f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\n"
    for file in ("None.py", "pipeline.py", "StableDiffusionPipeline.py", "extra/evil.py", "unet/evil.py"):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(code)
    edit_json(folder / "model_index.json", extra=["evil", "Evil"], _module="evil")
    with pytest.raises(ModelError, match="cannot be put together as a StableDiffusionPipeline: .*None.py"):
        load_model(folder)
    (folder / "None.py").unlink()
    edit_json(folder / "unet" / "config.json", auto_map={"AutoModel": "evil.Evil"})
    load_model(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pickle_under_the_name_of_safetensors_is_refused(tmp_path, part):
    folder = save_tiny_sd(tmp_path / "sd")
    (file,) = (folder / part).glob("*.safetensors")
    file.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    with pytest.raises(ModelError, match=f"{part} of .* cannot be read"):
        load_model(folder)
    assert not (tmp_path / "ran").exists()


def test_a_head_on_features_is_read_without_code(tmp_path, tiny_sd):
    folder = tmp_path / "features"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"n_channels": 8, "labels": ["a", "b"]}))
    torch.save({"weight": torch.ones(1, 2), "bias": Evil(tmp_path / "ran")}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="cannot be read"):
        load_features(folder, tiny_sd)
    assert not (tmp_path / "ran").exists()


# Images


def png(width, height, *chunks):
    """Return a PNG file whose header states a size, with further chunks and one row's data."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    parts = [(b"IHDR", size), *chunks, (b"IDAT", zlib.compress(bytes(1 + 3 * width))), (b"IEND", b"")]
    made = (
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(made)


BOMB = b"zTXt", b"Comment\0\0" + zlib.compress(bytes(20_000_000), 9)
PROFILE = b"iCCP", b"p\0\0" + zlib.compress(bytes(20_000_000), 9)
WHOLE = io.BytesIO()
Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(WHOLE, "png")
HALF = WHOLE.getvalue()[:6000]
GIF = b"GIF89a\1\0\1\0\x80\0\0\0\0\0\xff\xff\xff"
FRAME = b"\x21\xf9\4\0\0\0\0\0\x2c\0\0\0\0\1\0\1\0\0\2\2\x44\1\0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(2**31 - 1, 2**31 - 1), "at most 100,000,000 pixels|is not an image"),
        (png(50_000, 3_000), "at most 100,000,000 pixels, got 50000 x 3000"),
        (png(4, 4, BOMB), "not an image|truncated or damaged"),
        (png(4, 4, PROFILE), "not an image|truncated or damaged"),
        (HALF, "truncated or damaged"),
        (GIF + 5000 * FRAME + b";", "5000 frames.*expected a single image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch ran) (w) file\n", "is not an image in one of"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is not an image in one of"),
    ],
    ids=["absurd", "large", "text-bomb", "profile-bomb", "cut", "frames", "eps", "svg"],
)
@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
def test_hostile_images_are_errors(tmp_path, monkeypatch, content, message, limit):
    """Also where another library has taken Pillow's own limit away."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    path = tmp_path / "image.png"
    path.write_bytes(content)
    for image in (path, content):
        with pytest.raises(ImageError, match=message):
            load_images(image)
    assert MAX_PIXELS == 100_000_000 and os.listdir(tmp_path) == ["image.png"]


def test_images_of_an_archive_have_the_same_limits(tmp_path):
    good = io.BytesIO()
    Image.new("RGBA", (4, 4)).save(good, "png")
    files = {
        "good": good.getvalue(),
        "large": png(50_000, 3_000),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9",
    }
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"../../{name}.png", content)
    pictures = _Archive(tmp_path / "images.zip", list(files))
    assert pictures[0].getpixel((0, 0)) == (255, 255, 255)  # transparent: white
    for place, message in ((1, "large.png of .* at most 100,000,000 pixels"), (2, "eps.png of .* is not an image")):
        with pytest.raises(ImageError, match=message):
            pictures[place]
    assert os.listdir(tmp_path) == ["images.zip"]


# Prompt files and class names


def test_prompt_files_are_read_up_to_a_limit(tmp_path):
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    for path in (tmp_path / "huge", Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path}: a file of prompts must have at most 64,000,000 bytes"):
            read_prompts(path)
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 9)
    (tmp_path / "wide").write_text(f"prompt,classname,classidx\n{'x' * 200_000},a,0\n")
    for name in ("binary", "wide"):
        with pytest.raises(ValueError, match=f"{name} is not a CSV file in UTF-8"):
            read_prompts(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_prompts(tmp_path / "none")


def test_class_names_from_a_file_stay_names(tmp_path, tiny_sd_folder, capsys, monkeypatch):
    """Names that a spreadsheet, a terminal or a file system would take for something else."""
    names = ["=cmd|' /C calc'!A0", "\x1b]0;ran\x07", "../../../escaped", f"{SCRIPT}", "/etc/passwd", "$(touch ran)"]
    photos = save_class_folder(tmp_path / "photos", ["x"])
    lines = [f'"a photo of {n}, {name}","{name}",{n}' for n, name in enumerate(["x", *names])]
    (tmp_path / "prompts.csv").write_text("prompt,classname,classidx\n" + "\n".join(lines))
    before = {path for path in tmp_path.rglob("*")}
    monkeypatch.chdir(tmp_path / "photos")
    command = ["evaluate", str(photos), "--prompts", str(tmp_path / "prompts.csv"), "--model", str(tiny_sd_folder)]
    assert main([*command, "--trials", "1", "--out", str(tmp_path / "out")]) == 0
    assert not {"\x1b", "\x07"} & set("".join(capsys.readouterr()))
    new = {path for path in tmp_path.rglob("*")} - before
    assert all(path.is_relative_to(tmp_path / "out") for path in new)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "bank", "confusion.csv", "predictions.csv", "summary.json"
    }  # fmt: skip
    cells = pd.read_csv(tmp_path / "out" / "confusion.csv", index_col=0)
    assert not [cell for cell in [*cells.columns, *cells.index] if cell.startswith("=")]


# Banks


@pytest.fixture
def bank(gaussian, tmp_path):
    """A bank of one image in a folder of its own, and the function that opens it again."""
    make = lambda: ErrorBank(tmp_path / "bank", gaussian, [0, 1], TrialList([1, 2]))  # noqa: E731
    return make, IMAGES[:1], make().errors(IMAGES[:1])


def test_links_in_a_bank_are_replaced_and_not_followed(bank, tmp_path):
    make, images, expected = bank
    target = tmp_path / "precious"
    target.write_text("precious")
    for path in [*make().path.iterdir()]:
        path.unlink()
        path.symlink_to(target)
    with pytest.warns(UserWarning, match="is damaged"):
        np.testing.assert_array_equal(make().errors(images), expected)
    assert target.read_text() == "precious" and not [path for path in make().path.iterdir() if path.is_symlink()]


def test_files_of_any_size_in_a_bank_are_damaged_and_not_read(bank):
    make, images, expected = bank
    for path in make().path.iterdir():
        with path.open("wb") as file:
            file.truncate(10**11)  # no block is written
    with pytest.warns(UserWarning, match="is damaged"):
        np.testing.assert_array_equal(make().errors(images), expected)


def test_what_a_bank_says_of_itself_leads_nowhere(bank, tmp_path):
    make, images, _ = bank
    path = make().path / "bank.json"
    content = json.loads(path.read_text())
    content["identity"] |= {"weights": "../../../escaped", "prompts": ["../../x"], "seed": "__import__('os')"}
    path.write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="bank.json is damaged; it is written anew"):
        assert make().path == path.parent
    assert os.listdir(tmp_path) == ["bank"] and os.listdir(tmp_path / "bank") == [path.parent.name]


# Parameters of notebooks

STRINGS = [
    'x"\nimport os; os.mkdir("ran")\n"',
    "'''\nos.mkdir('ran')\n'''",
    '\\"; os.mkdir("ran") #',
    "{__import__('os')}",
    "\u2028ran()",
]


@pytest.mark.parametrize("text", STRINGS)
def test_code_in_a_parameter_stays_a_text(text):
    """As papermill writes parameters into a notebook."""
    values = {"model": text, "sizes": [text, {text: text}]}
    code = PythonTranslator.codify(values)
    assert {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(code).body} == values


@pytest.mark.parametrize("name", ["../mini", "/etc", "mini/..", "mini\0", "..", "all"])
def test_a_profile_is_no_path(name):
    with pytest.raises(ValueError, match="profile must be one of"):
        chosen_profile(name)
    with pytest.raises(ValueError, match="profile must be one of"):
        reproduce(name)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"os.system": "x"}, "parameter must be one of the notebooks'"),
        ({"n_images; import os": 1}, "parameter must be one of the notebooks'"),
        ({"n_images": "!!python/object/apply:os.mkdir [ran]"}, "n_images must be a value of YAML"),
    ],
)
def test_names_of_parameters_are_known_and_values_are_plain(parameters, message, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path))
    write_notebook(tmp_path, "01_one", ["x = 1"])
    with pytest.raises(ValueError, match=message):
        plan("mini", parameters=parameters)


@pytest.mark.parametrize(
    "name", ["../../../escaped", "/escaped", "a\0b", "file:///etc/passwd", "https://host/model", "hf://a/b"]
)
def test_names_of_models_and_data_sets_are_names_or_folders(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_REPORTS", str(tmp_path))
    wb = Workbook("00_start_here", "smoke")
    with pytest.raises(ValueError):
        wb.model(name)
    with pytest.raises(ValueError):
        wb.dataset(name=name)


# Pages


def looks(html):
    """Return the elements, and the attributes that run code, in HTML that should show hostile texts."""
    soup = BeautifulSoup(html, "html.parser")
    return soup, [
        tag for tag in soup.find_all(True) if tag.name in ("script", "iframe") or {"onerror", "onload"} & set(tag.attrs)
    ]


def test_hostile_names_are_shown_as_text_in_notebooks(monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(display, "_display", lambda content, metadata=None: shown.append(content.get("text/html", "")))
    df = pd.DataFrame({name: [name, 1] for name in HOSTILE}, index=pd.Index(HOSTILE[:2], name=HOSTILE[0]))
    display.show_table(df, HOSTILE[1], tmp_path / "table")
    display.show_facts(dict.fromkeys(HOSTILE, HOSTILE[1]))
    record = dict.fromkeys(
        ("place", "sentence", "words", "unit", "estimates", "paper_note", "detail", "id"), HOSTILE[1]
    )
    record |= {"covers": HOSTILE, "kind": "test", "verdict": None, "paper": None, "direction": "greater", "margin": 0}
    display.show_claim(record | {"estimate": 1.0, "low": 0.0, "high": 2.0, "level": 0.95, "n": 3})
    figure = lambda value: display.plt.figure(figsize=(1, 1))  # noqa: E731
    shown.append(interactive.figure_slider(figure, HOSTILE, label=HOSTILE[0], alt=lambda name: name).data)
    for html in shown:
        soup, run = looks(html)
        assert run == [] and " ".join(HOSTILE[1].split()) in soup.text + str([tag.attrs for tag in soup.find_all(True)])
    assert len(shown) == 4


def test_hostile_names_are_shown_as_text_in_the_report(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.setenv("DIFFCLF_REPORTS", str(tmp_path / "reports"))
    claim = make_claim("hostile") | {
        "sentence": HOSTILE[1],
        "place": HOSTILE[0],
        "estimates": HOSTILE[2],
        "unit": HOSTILE[4],
    }
    write_notebook(tmp_path / "notebooks", "01_one", ["x = 1"], [claim])
    wb = Workbook("01_one", "mini")
    wb.claim("hostile", 5.0, 1.0, 9.0, n=10, detail=HOSTILE[3])
    wb.show(display.plt.figure(figsize=(1, 1)), alt=f"{HOSTILE[1]}. More.", name="figure")
    model = {"name": HOSTILE[1], "fingerprint": HOSTILE[0], "dtype": "float32"}
    environment = {
        "python": HOSTILE[0],
        "platform": HOSTILE[1],
        "packages": {HOSTILE[2]: HOSTILE[3]},
        "commit": HOSTILE[4],
    }
    environment |= {"cpu": HOSTILE[1], "cores": 2, "gpus": HOSTILE, "threads": 1}
    record = {"status": "failed", "error": HOSTILE[3], "seconds": 1.0, "seed": 0, "finished": "", "parameters": {}}
    record |= {"settings": {"dataset": HOSTILE[1], "n_images": 3}, "model": model, "environment": environment}
    folder = tmp_path / "reports" / "mini"
    (folder / "runs").mkdir()
    (folder / "runs" / "01_one.json").write_text(json.dumps(record | {"status": "ok", "error": ""}))
    assert len(read_judged(folder)) == 1
    for error in ("", HOSTILE[3]):
        (folder / "runs" / "01_one.json").write_text(
            json.dumps(record | ({} if error else {"status": "ok", "error": ""}))
        )
        text = _front_page("mini", folder, {"01_one": HOSTILE[1]})
        soup, run = looks(text)
        assert run == [] and "&lt;script&gt;" in text and "document.title" in soup.text and "{{ 7 * 7 }}" in soup.text
        fences = [line for line in text.splitlines() if line.startswith("```")]
        assert len(fences) % 2 == 0 and set(fences) == {"```{raw} html", "```", "```{toctree}"}


# The network


def test_nothing_is_fetched_where_the_profile_needs_nothing(monkeypatch, tmp_path, capsys):
    def refuse(*_, **__):
        pytest.fail("asked for the network")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.delenv(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    wb = Workbook("00_start_here", "smoke")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    data = wb.dataset()
    bank = wb.bank(wb.model(), list(data.prompts.values()), TrialList([500]))
    assert bank.errors(data.images[:1]).shape == (1, len(data.prompts), 1)
    load_contrastive("mini-clip-small"), load_supervised("mini-resnet-xs")
    Image.fromarray(data.images[0]).save(tmp_path / "image.png")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert main(["classify", str(tmp_path / "image.png"), "--labels", "sneaker,bag", "--trials", "1"]) == 0
    assert plan("smoke") and all(job.settings["offline"] for job in plan("smoke") + plan("mini"))
