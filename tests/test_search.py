"""Optuna's search: bad trials do not end it, and one that was stopped goes on where it was."""

import os

import pytest
import yaml
from slow import fast_are

from experiments.running import hydra_launcher
from experiments.running.hydra_launcher import register_launcher
from experiments.running.planning import Outcome
from experiments.running.tables import table
from remac.training.loop import StoppedError

SEARCH = (
    *("-m", "hydra/launcher=population", "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=2", "env=probe/action"),
    "hydra.sweep.dir=search",
)
SPACE = "agent.learning_rate=interval(1e-4,1e-2)"


@pytest.fixture
def search(call, monkeypatch):
    """Runs a search whose trials are not trained: their return is their learning rate, and above 1 they diverge."""
    register_launcher()
    launched = []

    def run(*arguments, interrupted_in_batch=None, seed=7):
        batches = []

        def train(planned, memory_gib=None):
            batches.append(planned)
            launched.extend((one.number, one.job.config["agent"]["learning_rate"], one.job.resume) for one in planned)
            if len(batches) == interrupted_in_batch:
                raise KeyboardInterrupt
            outcomes = []
            for one in planned:
                one.directory.mkdir(parents=True, exist_ok=True)
                rate = one.job.config["agent"]["learning_rate"]
                bad = StoppedError("critic/loss became non-finite") if rate > 1 else None
                status, score = ("stopped", None) if bad else ("finished", rate)
                metrics = {"eval/return": rate, "eval/entropy": 0.0}
                outcomes.append(
                    Outcome(one.directory, status, score, str(bad or "") or None, bad, {"metrics": metrics})
                )
            print(table(planned, outcomes))
            return outcomes

        monkeypatch.setattr(hydra_launcher, "run_jobs", train)
        launched.clear()
        seeded = [] if seed is None else [f"hydra.sweeper.sampler.seed={seed}"]
        return *call([*SEARCH, *seeded, *arguments]), list(launched)

    return run


def results(directory):
    return yaml.safe_load((directory / "search" / "optimization_results.yaml").read_text())


def test_a_diverged_trial_is_a_bad_trial_and_the_search_goes_on(search, tmp_path):
    status, out, err, launched = search("hydra.sweeper.n_trials=6", "agent.learning_rate=choice(3e-4,1e30)")
    rates = [rate for _, rate, _ in launched]
    assert status == 0 and "Traceback" not in err
    assert len(rates) == 6 and {3e-4, 1e30} == set(rates), "the seed draws both"
    assert results(tmp_path)["best_value"] == 3e-4
    rows = [line.split()[0] for line in out.splitlines() if " stopped " in line or " finished " in line]
    assert [row for row in rows if row.isdecimal()] == list("012345")[: len(rows)] and rows.count("0") == 1


def test_a_trial_that_is_no_valid_job_is_a_bad_trial(search, tmp_path):
    status, _, err, launched = search("hydra.sweeper.n_trials=8", "agent.num_samples=choice(2,8)", SPACE)
    assert status == 0, err
    refused = {line for line in err.splitlines() if line.startswith("Error executing job with overrides: [")}
    assert len(refused) == 8 - len(launched) > 0  # the default M = 4 needs at least 4 samples
    assert results(tmp_path)["best_value"] == max(rate for _, rate, _ in launched)


def test_a_search_in_which_every_trial_is_bad_ends_with_their_reason(search):
    status, _, err, launched = search("hydra.sweeper.n_trials=4", "agent.learning_rate=choice(1e30,1e31)")
    assert (status, len(launched)) == (3, 4)
    assert err.splitlines()[-1] == "critic/loss became non-finite"


@pytest.mark.parametrize("batch_after", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_search_that_was_stopped_goes_on_with_the_trials_it_has(search, tmp_path, batch_after):
    status, _, _, before = search("hydra.sweeper.n_trials=6", SPACE, interrupted_in_batch=2)
    assert (status, [number for number, *_ in before]) == (130, [0, 1, 2, 3])
    more = ["hydra.sweeper.n_trials=6", f"hydra.sweeper.n_jobs={batch_after}", SPACE, "resume=auto"]
    status, out, err, after = search(*more)
    assert status == 0, err
    assert "2 trials have ended already" in out
    assert [number for number, *_ in after] == [2, 3, 4, 5]
    assert [rate for _, rate, _ in after[:2]] == [rate for _, rate, _ in before[2:]]
    assert all(resume for *_, resume in after)
    rates = [rate for _, rate, _ in before[:2] + after]
    assert len(set(rates)) == 6, "no value comes twice"
    assert results(tmp_path)["best_value"] == max(rates)
    status, _, err, again = search(*more)
    assert (status, again) == (0, []), err
    status, _, err, longer = search("hydra.sweeper.n_trials=7", SPACE, "resume=auto")
    assert (status, [number for number, *_ in longer]) == (0, [6]), err


def test_a_grid_goes_on_with_what_it_has_not_tried(search):
    grid = ["hydra/sweeper/sampler=grid", "hydra.sweeper.n_jobs=1", "agent.learning_rate=choice(1e-4,2e-4,3e-4)"]
    _, _, _, before = search(*grid, seed=None, interrupted_in_batch=3)
    status, _, err, after = search(*grid, "resume=auto", seed=None)
    assert status == 0, err
    assert {rate for _, rate, _ in before[:2] + after} == {1e-4, 2e-4, 3e-4} and len(after) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    fast_are(
        1,
        [
            (["agent.learning_rate=interval(1e-4,1)", "resume=auto"], ["agent.learning_rate=", "the search", "0.01"]),
            ([SPACE], ["hydra.sweep.dir=", "holds a search already", "resume=auto"]),
            ([SPACE, "agent.tau=0.5", "resume=auto"], ["agent.tau=0.5", "the search", "None"]),
        ],
    ),
)
def test_another_search_is_refused_where_one_is(search, arguments, expected):
    assert search("hydra.sweeper.n_trials=2", SPACE)[0] == 0
    status, _, err, launched = search("hydra.sweeper.n_trials=4", *arguments)
    assert (status, launched) == (2, []) and len(err.splitlines()) == 1
    assert all(part in err for part in expected), err


@pytest.mark.parametrize(("name", "content"), [("search.db", "no database"), ("0_run/config.yaml", "seed: 0")])
def test_a_search_that_cannot_be_resumed_is_refused(search, tmp_path, name, content):
    file = tmp_path / "search" / name
    os.makedirs(file.parent)
    file.write_text(content)
    status, _, err, launched = search("hydra.sweeper.n_trials=2", SPACE, "resume=auto")
    assert (status, launched, len(err.splitlines())) == (2, [], 1) and "search.db" in err, err
