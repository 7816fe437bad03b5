"""Settings: which value wins, what is an error, and what the committed files say."""

import pytest

from diffclf.workbook.run.cost import evaluations
from diffclf.workbook.run.plan import plan
from diffclf.workbook.settings import profiles, read_notebook_file, resolve

# Denoiser evaluations that two cores do in the minutes that the notebooks have: at mini about 25, at 1500 a second;
# at smoke a few seconds each.
LIMITS = {"smoke": 55_000, "mini": 2_250_000}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "common.yaml").write_text(
        "all: {seed: 0, n_images: 100, model: m, scale: 1.5, fast: true, sizes: [1, 2]}\nmini: {model: small}\n"
        "full: {n_images: 1000}\n"
    )
    (tmp_path / "01_x.yaml").write_text("settings:\n  all: {n_trials: 5}\n  mini: {n_images: 50, n_trials: 3}\n")
    (tmp_path / "02_y.yaml").write_text("claims: []\n")
    monkeypatch.setenv("DIFFCLF_NOTEBOOKS", str(tmp_path))
    monkeypatch.delenv("DIFFCLF_PROFILE", raising=False)
    return tmp_path


def test_the_more_special_value_wins(folder):
    common = {"seed": 0, "n_images": 100, "model": "small", "scale": 1.5, "fast": True, "sizes": [1, 2]}
    assert resolve("02_y") == common
    assert (resolve("01_x")["n_images"], resolve("01_x")["n_trials"]) == (50, 3)
    assert (resolve("01_x", "full")["n_images"], resolve("01_x", "full")["n_trials"]) == (1000, 5)
    assert resolve("01_x", parameters={"n_images": 7})["n_images"] == 7


def test_empty_means_the_profiles_false_is_a_value_and_int_stands_for_float(folder):
    for empty in (0, "", None, [], ()):
        assert resolve("01_x", parameters={"n_images": empty}) == resolve("01_x")
    assert resolve("01_x", parameters={"fast": False, "scale": 2}) == resolve("01_x") | {"fast": False, "scale": 2}


def test_profile_by_argument_environment_default(folder, monkeypatch):
    assert profiles() == ["mini", "full"]
    assert resolve("01_x")["n_images"] == 50
    monkeypatch.setenv("DIFFCLF_PROFILE", "full")
    assert resolve("01_x")["n_images"] == 1000
    assert resolve("01_x", "mini")["n_images"] == 50


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("01_x", "huge"), "profile must be one of mini, full, got 'huge'"),
        (("01_x", "all"), "profile must be one of mini, full, got 'all'"),
        (("09_z",), r"NN_name.yaml in .* \(01_x, 02_y\), got '09_z'"),
        (("common",), "got 'common'"),
        (("01_x", "", {"n_imagse": 3}), r"n_images, .* got 'n_imagse'"),
        (("01_x", "", {"n_images": "3"}), "n_images must be of type int, got '3'"),
        (("01_x", "", {"n_images": True}), "n_images must be of type int, got True"),
        (("01_x", "", {"n_images": -3}), "n_images must be at least 1, got -3"),
        (("01_x", "", {"fast": 1}), "fast must be of type bool, got 1"),
        (("01_x", "", {"model": 3}), "model must be of type str, got 3"),
    ],
)
def test_wrong_requests(folder, arguments, message):
    with pytest.raises(ValueError, match=message):
        resolve(*arguments)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings: {mnii: {}}", "parts of 03_z.yaml must be .* sections all, mini, full, got mnii"),
        ("setting: {mini: {}}", "parts of 03_z.yaml must be claims and settings, .* got setting"),
    ],
)
def test_notebook_file_is_checked(folder, text, message):
    (folder / "03_z.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_notebook_file("03_z")


@pytest.mark.parametrize("name", ["common.yaml", "01_x.yaml"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "must hold a mapping in YAML"),
        (b"a: \xff", "must hold a mapping in YAML, got UnicodeDecodeError"),
        (b"a: !!python/object:os.system {}", "must hold a mapping in YAML, got ConstructorError"),
        (b"- 1", "must be a mapping with names as keys, got .1."),
        (b"3: {}", "must be a mapping with names as keys, got .3"),
    ],
)
def test_malformed_files(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.* {message}"):
        resolve("01_x")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("[1]", "mini must be a mapping"),
        ("{timeout_s: soon}", "timeout_s in .*, mini, must be of type number, got 'soon'"),
        ("{timeout_s: true}", "timeout_s in .*, mini, must be of type number, got True"),
        ("{offline: 1}", "offline in .*, mini, must be of type bool, got 1"),
    ],
)
def test_malformed_sections(folder, section, message):
    (folder / "01_x.yaml").write_text(f"settings: {{mini: {section}}}")
    with pytest.raises(ValueError, match=message):
        resolve("01_x")
    (folder / "common.yaml").unlink()
    with pytest.raises(ValueError, match="settings in .*common.yaml, got no such file"):
        resolve("01_x")


def test_committed_notebooks_run_at_every_profile_with_the_same_settings():
    assert profiles() == ["smoke", "mini", "full", "paper"]
    for jobs in zip(*map(plan, profiles()), strict=True):
        assert {job.problem for job in jobs} == {""}
        assert len({frozenset(job.settings.keys() - {"download_gb"}) for job in jobs}) == 1, jobs[0].name
        assert [job.settings["offline"] for job in jobs] == [True, True, True, False]
        assert [job.settings["verdicts"] for job in jobs] == [False, True, True, True]


@pytest.mark.parametrize("profile", LIMITS)
def test_budgets_fit(profile):
    budgets = [evaluations(job) for job in plan(profile)]
    assert min(budgets) > 0 and sum(budgets) <= LIMITS[profile]


def test_budgets_grow_with_the_sizes():
    few, many = ([evaluations(job) for job in plan("mini", parameters={"n_images": n})] for n in (20, 40))
    assert all(f <= m <= 2 * f for f, m in zip(few, many, strict=True)) and sum(many) > 1.1 * sum(few)


def test_a_value_below_the_least_one_is_refused(folder):
    (folder / "01_x.yaml").write_text("settings:\n  all: {n_trials: 5, least: {n_trials: 4}}\n")
    assert resolve("01_x", parameters={"n_trials": 4})["n_trials"] == 4
    with pytest.raises(ValueError, match="n_trials of 01_x must be at least 4, got 3"):
        resolve("01_x", parameters={"n_trials": 3})


LEAST = {
    "01_shared_noise": {"n_trials": 2},
    "02_timestep_sensitivity": {"n_trials": 10},
    "03_timestep_strategies": {"n_trials": 10},
    "09_supervised": {"n_images": 2},
    "11_interpretability": {"n_map": 10, "n_steps": 2},
    "14_racing": {"race_trials": 8},
}


@pytest.mark.parametrize("notebook", LEAST)
def test_values_with_which_a_committed_notebook_would_fail_late_are_refused(notebook):
    for profile in profiles():
        for name, least in LEAST[notebook].items():
            assert resolve(notebook, profile, {name: least})[name] == least
            with pytest.raises(ValueError, match=f"{name} of {notebook} must be at least {least}, got {least - 1}"):
                plan(profile, [notebook], {name: least - 1})
