"""The commit of a run is that of this code, whatever repository is around it or around the caller."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from experiments.records.provenance import ROOT, commit_of, provenance


def git(folder, *arguments):
    names = [f"GIT_{who}_{what}" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")]
    environment = os.environ | dict.fromkeys(names, "somebody")
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout.strip()


@pytest.fixture
def somebodys(tmp_path):
    """A repository of somebody's."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "thesis.tex").write_text("")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "theirs")
    return folder


def lay_out(folder):
    """Puts the file by which the package is known where it is in an installation or a source tree."""
    place = folder / "experiments/records"
    place.mkdir(parents=True)
    shutil.copy(ROOT / "experiments/records/provenance.py", place)
    return folder


def test_an_installation_within_somebodys_repository_has_no_commit(somebodys):
    """Neither in a virtual environment there, nor as a source tree that lost its own repository."""
    for folder in (".venv/lib/python3.11/site-packages/remac", "remac-0.1.0"):
        commit, reason = commit_of(lay_out(somebodys / folder))
        assert commit is None and "not a git repository" in reason
    git(somebodys, "add", "remac-0.1.0")
    git(somebodys, "commit", "-q", "-m", "vendored")
    assert commit_of(somebodys / "remac-0.1.0")[0] is None


def test_files_beside_somebodys_have_no_commit(somebodys):
    """The folder is a repository, and the package no part of it."""
    commit, reason = commit_of(lay_out(somebodys))
    assert commit is None and "did not match any file" in reason


def test_a_source_tree_has_its_own_commit(somebodys, monkeypatch):
    git(lay_out(somebodys), "add", ".")
    git(somebodys, "commit", "-q", "-m", "the package")
    own = git(somebodys, "rev-parse", "HEAD")
    assert commit_of(somebodys) == (own, None)
    (somebodys / "thesis.tex").write_text("changed")
    assert commit_of(somebodys) == (f"{own}-dirty", None)
    # As in a hook of another repository's.
    monkeypatch.setenv("GIT_DIR", str(ROOT / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(ROOT))
    assert commit_of(somebodys) == (f"{own}-dirty", None)


def test_where_git_refuses_or_is_missing_there_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(ROOT) == (None, "git is not installed")
    refusing = tmp_path / "git"
    refusing.write_text(
        f"#!{sys.executable}\nimport sys\n"
        "sys.exit(sys.stderr.write(\"fatal: detected dubious ownership in repository at 'x'\\nTo add\\n\") and 128)\n"
    )
    refusing.chmod(0o755)
    assert commit_of(ROOT) == (None, "fatal: detected dubious ownership in repository at 'x'")


def test_another_owner(somebodys, monkeypatch):
    """With the real git, which has this variable for its own tests of it."""
    git(lay_out(somebodys), "add", ".")
    git(somebodys, "commit", "-q", "-m", "the package")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    commit, reason = commit_of(somebodys)
    assert commit is None and "dubious ownership" in reason and "\n" not in reason


def test_an_installer_that_fetched_a_commit_noted_it(tmp_path, monkeypatch):
    site = tmp_path / "site-packages"
    package = lay_out(site / "remac")
    information = site / "remac-0.1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: remac\nVersion: 0.1.0\n")
    monkeypatch.syspath_prepend(site)
    assert commit_of(package)[0] is None
    note = {"url": "https://example.org/remac", "vcs_info": {"vcs": "git", "commit_id": "c" * 40}}
    (information / "direct_url.json").write_text(json.dumps(note))
    assert commit_of(package) == ("c" * 40, None)


def test_a_run_says_why_it_has_no_commit(monkeypatch):
    monkeypatch.setattr("experiments.records.provenance._own_commit", lambda: (None, "git is not installed"))
    content = provenance()
    assert content["commit"] is None and content["no_commit"] == "git is not installed" and len(content["code"]) == 16
