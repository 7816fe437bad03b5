"""Malformed input of every kind ends in one of the project's own errors (ValueError), never in another exception.

Each test runs with few examples, the same every time, and, marked slow, with many.
"""

import json
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from notebook_maker import make_claim, write_notebook

from diffclf.models import load_model
from diffclf.prompts import prompts_from_labels, read_prompts, resolve_prompts, split_labels
from diffclf.stats import Estimate
from diffclf.workbook.claims import Claim, claim_record, read_claims
from diffclf.workbook.display import answer, claims_table
from diffclf.workbook.plots.forest import forest_alt
from diffclf.workbook.provenance import describe, environment
from diffclf.workbook.results import read_judged, read_metrics, read_run
from diffclf.workbook.run.plan import plan
from diffclf.workbook.settings import resolve

set_hypothesis_home_dir(Path(tempfile.gettempdir()) / "hypothesis")  # not the checkout
pytestmark = pytest.mark.filterwarnings("ignore")  # a library's warning is no traceback

NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1, -1, 2, 10**9, 10**30, 10**400, 1e308])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
DEEP = b"[" * 1_200  # deeper than Python's limit of recursion
TAGGED = b"a: &a [x, x]\nb: &b [*a, *a]\nc: !!python/object:os.system {}"
BYTES = st.binary(max_size=60) | st.sampled_from([DEEP, TAGGED, b"\xff\xfe{", b"{", b"[]", b"NaN", b'{"a": 1}\x00'])
LABELS = st.text(max_size=12) | st.sampled_from(["a,b", 'a,"b', "a\nb", "=x,\x1b[2J", ",", '"', "a,b\r"])
CSV_PARTS = st.sampled_from(
    [
        "prompt",
        "classname",
        "classidx",
        " Prompt ",
        ",",
        ";",
        "\t",
        "\n",
        "\r\n",
        '"',
        "0",
        "1",
        "a",
        "b",
        "\0",
        "\ufeff",
    ]
)


def run(n_examples, check, **drawn):
    """Call a check with many drawn arguments."""
    quick = [HealthCheck.too_slow, HealthCheck.data_too_large]
    options = {"deadline": None, "database": None, "derandomize": n_examples < 500, "suppress_health_check": quick}
    settings(max_examples=n_examples, **options)(given(**drawn)(check))()


def examples(few, many):
    """Run a test with few examples and, marked slow, with many."""
    return pytest.mark.parametrize("n_examples", [few, pytest.param(many, marks=pytest.mark.slow)])


def to_json(value):
    """Return a value as JSON, in which numbers may be infinite and texts have lone surrogates."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


@examples(100, 5000)
def test_prompt_files(n_examples, tmp_path):
    def check(content):
        file = tmp_path / "prompts.csv"
        file.write_bytes(content)
        with suppress(ValueError):
            pairs = read_prompts(file)
            assert len({name for _, name in pairs}) >= 2 and all(prompt.strip() for prompt, _ in pairs)

    header = st.lists(CSV_PARTS, max_size=30).map(lambda parts: "".join(parts).encode())
    rows = st.lists(st.lists(CSV_PARTS, max_size=8).map("".join), max_size=5)
    table = rows.map(lambda found: ("prompt,classname,classidx\n" + "\n".join(found)).encode())
    run(n_examples, check, content=header | table | BYTES)


@examples(100, 5000)
def test_labels_and_templates(n_examples):
    def check(labels, template):
        with suppress(ValueError):
            pairs = prompts_from_labels(split_labels(labels), template)
            assert len(pairs) >= 2 and resolve_prompts(pairs, None)

    run(n_examples, check, labels=LABELS, template=st.just("a photo of a {}") | st.text(max_size=8))


@examples(100, 5000)
def test_prompts_of_any_kind(n_examples):
    def check(prompts, labels):
        with suppress(ValueError):
            texts, names = resolve_prompts(prompts, labels)
            assert len(texts) == len(names) >= 2

    pairs = st.lists(st.tuples(SCALARS, SCALARS), max_size=4)
    run(n_examples, check, prompts=VALUES | pairs, labels=st.sampled_from([None, ("a", "b", "c")]))


CLAIM = make_claim("one")
FILES = {
    "01_x.yaml": {"claims": [CLAIM], "settings": {"all": {"n_images": 5}, "mini": {"n_images": 3}}},
    "common.yaml": {
        "all": {"model": "mini-sd", "offline": True, "solutions": False, "timeout_s": 5, "n_images": 4, "seed": 0},
        "mini": {"dataset": "mini-items", "download_gb": {"pets": 1}},
    },
}


def places(value):
    """Return the ways to all parts of a nested value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(), *((key, *rest) for key, part in inner for rest in places(part))]


def changed(value, place, new):
    """Return a nested value with another part at one place."""
    if not place:
        return new
    part = changed(value[place[0]], place[1:], new)
    if isinstance(value, dict):
        return {**value, place[0]: part}
    return [*value[: place[0]], part, *value[place[0] + 1 :]]


def malformed(content, to_bytes, values=VALUES):
    """Return a strategy of the bytes of a file: another value somewhere in its content, or anything."""
    one_wrong = st.builds(
        lambda place, new: to_bytes(changed(content, place, new)), st.sampled_from(places(content)), values
    )
    return one_wrong | BYTES


@pytest.mark.parametrize("name", FILES)
@examples(30, 2000)
def test_profiles_and_settings(n_examples, name, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path))
    write_notebook(tmp_path, "01_x", ["x = 1"])
    for other, whole in FILES.items():
        (tmp_path / other).write_text(yaml.safe_dump(whole))

    def check(content, profile, parameters):
        (tmp_path / name).write_bytes(content)
        with suppress(ValueError):
            assert resolve("01_x", profile, parameters)
        with suppress(ValueError):
            assert all(isinstance(claim, Claim) for claim in read_claims("01_x").values())
        with suppress(ValueError):
            (job,) = plan(profile, parameters={key: str(value) for key, value in parameters.items()})
            assert job.problem or job.settings["timeout_s"]

    parameters = st.dictionaries(st.sampled_from(["n_images", "seed", "model", "x"]), VALUES, max_size=2)
    names = st.sampled_from(["", "mini", "all", "\0"])
    as_yaml = lambda value: yaml.safe_dump(value).encode("utf-8", "surrogatepass")  # noqa: E731
    run(n_examples, check, content=malformed(FILES[name], as_yaml), profile=names, parameters=parameters)


RUN = {"status": "failed", "error": "x", "seconds": 3.0, "seed": 0, "settings": {"dataset": "a", "n_images": 3}}
RUN |= {"model": {"name": "m", "dtype": "float32", "fingerprint": "f"}, "environment": environment()}
JUDGED = claim_record(Claim(**CLAIM, notebook="01_x", n_claims=1), Estimate(0.1, -1.0, 2.0, 0.95, 9), profile="mini")
RECORDS = {"runs": RUN, "claims": {"claims": [json.loads(json.dumps(JUDGED))]}, "metrics": {"a": 1}}


@pytest.mark.parametrize("kind", RECORDS)
@examples(100, 3000)
def test_records_of_a_run(n_examples, kind, tmp_path):
    (tmp_path / kind).mkdir()

    def check(content):
        (tmp_path / kind / "01_x.json").write_bytes(content)
        with suppress(ValueError):
            for record in read_run(tmp_path).values():
                assert describe(record["environment"])
        with suppress(ValueError):
            judged = read_judged(tmp_path)
            assert claims_table(judged) and isinstance(answer(judged) + forest_alt(judged), str)
        with suppress(ValueError):
            assert isinstance(read_metrics(tmp_path, "01_x"), dict)

    run(n_examples, check, content=malformed(RECORDS[kind], to_json))


@pytest.fixture(params=["tiny_sd_folder", "tiny_dit_folder"])
def model_folder(request, tmp_path):
    """A folder of a tiny model that a test may change, and the one it was copied from."""
    original = request.getfixturevalue(request.param)
    return original, Path(shutil.copytree(original, tmp_path / "model"))


@examples(25, 3000)
def test_configurations_of_models(n_examples, model_folder):
    original, folder = model_folder
    files = sorted(str(path.relative_to(original)) for path in original.rglob("*.json") if path.name != "vocab.json")
    contents = {name: json.loads((original / name).read_text(encoding="utf-8")) for name in files}
    wrong = [
        malformed(content, to_json, VALUES).map(lambda new, name=name: (name, new))
        for name, content in contents.items()
    ]

    def check(wrong):
        name, content = wrong
        (folder / name).write_bytes(content)
        try:
            with suppress(ValueError):
                assert load_model(folder, device="cpu").fingerprint
        finally:
            shutil.copy(original / name, folder / name)

    run(n_examples, check, wrong=st.one_of(wrong))
