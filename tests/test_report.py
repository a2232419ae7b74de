import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from synthetic_runs import write_run, write_sweep

from experiments import report
from experiments.comparing.loading import load
from experiments.comparing.page import part
from experiments.comparing.tuning import learning_rates
from remac.validation import InvalidValueError

FINAL = {"eval/return_stochastic": 100.0, "actor/entropy": -3.0, "actor/pre_tanh_std": 0.5}
VOID = {"meta", "img", "br", "input"}
SEEN = {
    "lines of M = 4": (0xE6, 0x9F, 0x00),
    "lines of SAC": (0x00, 0x9E, 0x73),
    "text of the page": (0x1B, 0x1B, 0x1B),
}


class Page(HTMLParser):
    """Collects tags, the text of each section, and pictures; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.images, self.texts, self.ids = [], [], [], {}, []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append((tag, dict(attributes)))
        if tag == "img":
            self.images.append(dict(attributes))
        if "id" in dict(attributes):
            self.ids.append(dict(attributes)["id"])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for tag, attributes in self.open:
            if tag == "section":
                self.texts[attributes["id"]] = self.texts.get(attributes["id"], "") + data + " "


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A sweep of two arms and three seeds, of which one seed failed, one is going and one never started."""
    folder = tmp_path_factory.mktemp("sweep")
    arms = [
        {"final": FINAL, "top": {"arm": "sac", "experiment": "damping"}},
        {"retries": 4, "final": FINAL, "top": {"arm": "m<4>", "experiment": "damping"}},
    ]
    write_sweep(folder, arms)
    for name, status, reason in (
        ("0_mujoco_hopper_3", None, None),
        ("1_mujoco_hopper_2", "stopped", "actor/loss is nan"),
    ):
        number, seed = int(name[0]), int(name[-1])
        shutil.rmtree(folder / name)
        write_run(folder / name, seed=seed, status=status, reason=reason, **arms[number])
    planned = [
        {"directory": f"{number}_mujoco_hopper_{seed}", "task": "mujoco/hopper", "arm": arm, "seed": seed}
        for number, arm in enumerate(("sac", "m<4>"))
        for seed in (1, 2, 3, 4)
    ]
    command = ["python", "-m", "experiments.sweep", "experiment=damping"]
    plan = {"experiment": "damping", "suite": "mujoco", "scale": "smoke", "command": command, "runs": planned}
    (folder / "plan.json").write_text(json.dumps(plan))
    out = folder.parent / "page/report.html"
    report.main([str(folder), f"out={out}"])
    return folder, out, Page(out.read_text(encoding="utf-8"))


def test_cells_with_fewer_seeds_than_planned_are_listed(page):
    folder, _, parsed = page
    lacking = report.compare_with_plans(load([folder]))
    assert [(cell["arm"], cell["planned"], cell["finished"]) for cell in lacking] == [
        ("sac", "1-4", "1-2"),
        ("m<4>", "1-4", "1, 3"),
    ]
    assert lacking[0]["rest"] == (
        "seed 3: unfinished at 1,000 env steps (no summary.json: still going, or killed); "
        "seed 4: not started (no run directory)"
    )
    assert "seed 2: stopped at 1,000 env steps (actor/loss is nan)" in lacking[1]["rest"]
    for text in ("seeds planned", "actor/loss is nan", "not started", "m<4>", "1_mujoco_hopper_2"):
        assert text in parsed.texts["missing"]


def test_the_page_says_what_ran_on_what_and_with_which_seeds(page):
    _, _, parsed = page
    ran = parsed.texts["ran"]
    for text in (
        "experiments.sweep experiment=damping",
        "mujoco smoke",
        "0123456789abcdef",
        "1 x cpu (cpu)",
        "jax 0.10.2",
        "Linux 3.11",
        "train.py seed=2",
        "experiments.report",
    ):
        assert text in ran
    assert "6 runs: 4 finished, 1 stopped, 1 unfinished" in parsed.texts["summary"]
    assert re.search(r"sac\s+1-2\s+100 ± 0\s+\[100; 100, 100\]\s+-3 ± 0", parsed.texts["tables"])
    assert "a. At epsilon 1e-8" in parsed.texts["claims"] and "not enough data" in parsed.texts["claims"]


def test_the_page_stands_alone_and_is_accessible(page):
    _, out, parsed = page
    text = out.read_text(encoding="utf-8")
    assert "url(" not in text and "@import" not in text and "http" not in text
    scripts = [attributes for tag, attributes in parsed.tags if tag == "script"]
    assert {"class": "curves", "type": "application/json"} in scripts and not any("src" in one for one in scripts)
    sources = [value for _, attributes in parsed.tags for key, value in attributes.items() if key in ("src", "href")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in sources)
    assert {value[1:] for value in sources if value.startswith("#")} <= set(parsed.ids)
    assert len(parsed.images) >= 3 and all(len(image["alt"]) > 40 for image in parsed.images)
    for image in parsed.images:
        picture = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
        assert picture.width > 300 and picture.convert("L").getextrema()[0] < 100
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("h1") == 1 and dict(parsed.tags)["html"] == {"lang": "en"}
    assert all(attributes.get("scope") == "col" for tag, attributes in parsed.tags if tag == "th")


def test_tables_are_sorted_and_filtered(browser, tmp_path):
    """By the page's own script, with a person's clicks and words."""
    rows = [("a", "10"), ("b", "9"), ("c", "1,000"), ("d", ""), *((name, "5") for name in "efgh")]
    page = tmp_path / "tables.html"
    page.write_text(f"<body>{report._table('', ('name', 'number'), rows)}<script>{part('tables.js')}</script>")
    browser.open(page)
    found = browser.run("""
      const at = index => document.querySelectorAll("th button")[index].click();
      const shown = "tbody tr:not([hidden]) td:first-child";
      const seen = () => [...document.querySelectorAll(shown)].map(cell => cell.textContent).join("");
      const found = [];
      at(1); found.push(seen()); at(1); found.push(seen()); at(0); found.push(seen());
      const field = document.querySelector("input"); field.value = "A 1"; field.dispatchEvent(new Event("input"));
      return [...found, seen()];
    """)
    assert found == ["defghbac", "cabefghd", "abcdefgh", "a"]


def test_curves_tell_what_is_under_the_pointer(page, browser):
    """The numbers of the picture, which makes way for them; a click on a name hides its line and band."""
    browser.open(page[1])
    legend = """const rows = () => [...document.querySelector(".panel .u-legend").rows];
      const legend = () => rows().filter(row => row.checkVisibility())
        .map(row => [...row.cells].map(cell => cell.innerText).join(": "));"""
    texts = browser.run(f"""{legend}
      const over = await until(() => document.querySelector(".panel .u-over")), box = over.getBoundingClientRect();
      const place = {{clientX: box.right - 1, clientY: box.top + 9, bubbles: true}};
      for (const kind of ["mouseenter", "mousemove"]) over.dispatchEvent(new MouseEvent(kind, place));
      await until(() => !legend()[0].includes("--"));
      return legend();
    """)
    assert texts == ["env steps: 1,000", "SAC: 100 [100, 100], 2 seeds", "ReMAC M=4: 100 [100, 100], 2 seeds"]
    shown = browser.run(f"""{legend}
      rows()[1].querySelector("th").click();
      return document.querySelector(".panel").plot.series.map(one => one.show);
    """)
    assert shown == [True, *[False] * 3, *[True] * 3]
    pictures = browser.run("return [...document.querySelectorAll('details.picture')].map(one => one.open)")
    assert pictures == [False]


def test_the_page_in_a_browser(page, browser, tmp_path):
    """A real browser shows the text, the curves and the pictures."""
    browser.open(page[1])
    browser.run("await until(() => document.querySelectorAll('.panel canvas').length >= 2)")
    shot = tmp_path / "page.png"
    browser.screenshot(shot)
    pixels = np.asarray(Image.open(shot).convert("RGB")).reshape(-1, 3)
    counts = {colour: int((pixels == rgb).all(axis=1).sum()) for colour, rgb in SEEN.items()}
    assert min(counts.values()) > 100, counts


def test_without_a_plan_the_page_says_so(tmp_path):
    write_sweep(tmp_path / "runs", [{"final": FINAL}, {"retries": 1, "final": FINAL}], seeds=(1,))
    report.main([str(tmp_path / "runs"), f"out={tmp_path / 'r.html'}", "metric=actor/entropy"])
    parsed = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "what was planned is not known" in parsed.texts["missing"]
    assert "(one seed)" in parsed.texts["tables"]


def test_claims_that_nothing_judges_are_folded_away(tmp_path):
    folded = "These runs are not enough to judge any of 8 claims"
    for seed in (1, 2, 3):
        write_run(tmp_path / "one" / str(seed), seed=seed, retries=4, final=FINAL)
        for retries, entropy in ((1, -9.0), (2, -3.0)):
            final = FINAL | {"actor/entropy": entropy}
            write_run(tmp_path / "two" / f"{retries}_{seed}", seed=seed, retries=retries, final=final)
    texts = {}
    for name in ("one", "two"):
        report.main([str(tmp_path / name), f"out={tmp_path / name}.html"])
        texts[name] = Page((tmp_path / f"{name}.html").read_text(encoding="utf-8")).texts["claims"]
    assert texts["one"].startswith(f"Claims {folded}") and folded not in texts["two"]
    assert "a. At epsilon 1e-8" in texts["one"] and re.search("pass|fail", texts["two"])


def test_claims_lead_to_the_figures_that_they_rest_on(tmp_path):
    arms = [{"retries": m, "final": FINAL | {"actor/raises_std": 0.5, "actor/grad_norm": 1.0}} for m in (1, 2)]
    write_sweep(tmp_path / "runs", arms, seeds=(1, 2))
    report.main([str(tmp_path / "runs"), f"out={tmp_path / 'r.html'}", "metric=actor/entropy"])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    links = {
        name: re.findall('href="#(figure-[^"]*)"', found)
        for name, found in re.findall(r'<details id="claim-([^"]*)">.*?<p>(.*?)</p>', text)
    }
    of_entropy = ["final_against_num_retries", "final", "curves", "paired"]
    assert links["a"] == links["c"] == [f"figure-{name}" for name in of_entropy]
    assert links["e"] == links["f (gradient)"] == ["figure-updates_against_num_retries"]
    assert links["b"] == [] and "No figure here shows it; metric=actor/pre_tanh_std does" in text
    assert {link for found in links.values() for link in found} <= set(Page(text).ids)
    matrix = text[text.index('<section id="claims">') :]
    row = matrix[matrix.index("#claim-a") :].partition("</tr>")[0]
    assert '<a href="#figure-final_against_num_retries">' in row


def test_names_that_are_html_are_shown_as_text(browser, tmp_path):
    """Of arms, tasks, seeds' folders, files, machines, commands, reasons, methods that others have published."""
    evil = "<script>document.title='taken'</script><img src=x onerror=document.title='taken'>"
    named = evil.replace("/", "")  # as a file may be called
    provenance = {"command": [evil, evil], "commit": evil, "versions": {evil: evil}, "machine": {"system": evil}}
    for seed, status in ((1, "finished"), (2, "finished"), (3, "stopped")):
        top = {"arm": evil, "experiment": evil, "env": {"suite": "mujoco", "task": "hopper", "options": {evil: evil}}}
        settings = {"retries": 4, "final": FINAL | {"eval/return": 1.0}, "status": status, "reason": evil, "top": top}
        write_run(tmp_path / named / str(seed), seed=seed, provenance=provenance, actor_optimizer=evil, **settings)
    table = tmp_path / f"{named}.csv"
    table.write_text(f'exp_name,env_name,seed,metric,env_step,value\n"{evil}","dmc/{evil}",0,return,1000,1\n')
    published = tmp_path / f"{named}_published.csv"
    columns = "env_name,method,env_steps,seeds,interquartile_mean,source"
    published.write_text(f'{columns}\n"dmc/{evil}","{evil}",100,1,1,"{evil}"\n')
    plan = {"experiment": evil, "suite": evil, "scale": evil, "command": [evil]}
    planned = {"directory": evil, "task": evil, "arm": evil, "seed": 0}
    (tmp_path / named / "plan.json").write_text(json.dumps(plan | {"runs": [planned]}))
    given = [str(tmp_path / named), str(table), f"published={published}", f"out={tmp_path / 'r.html'}"]
    report.main([*given, f"reference={evil}", "metric=eval/return"])
    browser.open(tmp_path / "r.html")
    found = browser.run("""
      await until(() => document.querySelectorAll(".panel canvas").length >= 2);
      for (const details of document.querySelectorAll("details")) details.open = true;
      const images = [...document.images].map(image => image.src.slice(0, 5));
      const curves = document.querySelectorAll("script.curves").length;
      return [document.title, curves, document.scripts.length, [...new Set(images)], document.body.innerText,
        [...document.querySelectorAll("figure")].map(figure => figure.innerText).join(" ")];
    """)
    title, num_curves, num_scripts, images, text, figures = found
    assert "taken" not in title.replace(evil, "") and images == ["data:"]
    assert num_scripts == num_curves + 1
    for name in (evil, named, f"{evil}, published", str(table)):
        assert name in text
    assert f"{evil}, published" in figures


def test_runs_that_have_not_finished_make_no_empty_curves(tmp_path):
    write_run(tmp_path / "runs/0", final=FINAL, status=None)
    write_run(tmp_path / "runs/1", task="mujoco/swimmer", final=FINAL)
    report.main([str(tmp_path / "runs"), f"out={tmp_path / 'r.html'}", "metric=actor/entropy"])
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "experiments.watch" in Page(text).texts["summary"]
    (curves,) = re.findall(r'<script class="curves"[^>]*>(.*?)</script>', text)
    assert [panel["title"] for panel in json.loads(curves)] == ["Swimmer"]


def test_the_table_has_the_speed_of_whole_programs(tmp_path):
    final = {**FINAL, "time/env_steps_per_second": 100.0, "time/num_members": 2}
    write_sweep(tmp_path / "runs", [{"final": final}], seeds=(1, 2), top={"experiment": "speed"})
    report.main([str(tmp_path / "runs"), f"out={tmp_path / 'r.html'}", "metric=actor/entropy"])
    parsed = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "200 (members: 2)" in parsed.texts["tables"]


def test_tuning_chooses_the_best_worst_rank_of_each_task(tmp_path):
    returns = {1e-4: (10.0, 30.0), 3e-4: (20.0, 20.0), 1e-3: (30.0, 10.0)}
    arms = [
        {"retries": m, "learning_rate": rate, "final": {"eval/return_stochastic": value}}
        for rate, values in returns.items()
        for m, value in zip((1, 8), values, strict=True)
    ]
    arms.append({"retries": 1, "learning_rate": 5e-4, "final": {"eval/return_stochastic": 99.0}})
    folder = write_sweep(tmp_path / "runs", arms, seeds=(1, 2), top={"experiment": "tune_learning_rate"})
    rows = {row["learning_rate"]: row for row in learning_rates(load([folder], keep_tuning=True))}
    assert {rate: (row["worst"], row["chosen"]) for rate, row in rows.items()} == {
        **{1e-4: (3, False), 3e-4: (2, True), 1e-3: (3, False)},
        5e-4: (None, False),  # nothing is known about M = 8
    }
    report.main([str(folder), f"out={tmp_path / 'r.html'}"])
    parsed = Page((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert "0.0003" in parsed.texts["tuning"] and "not every M has finished" in parsed.texts["tuning"]
    assert "none of their numbers may be reported" in parsed.texts["summary"]


def test_bad_input(tmp_path):
    write_run(tmp_path / "a", final=FINAL)
    with pytest.raises(InvalidValueError, match="is a folder"):
        report.main([str(tmp_path), f"out={tmp_path}"])
    with pytest.raises(InvalidValueError, match="x=foo"):
        report.main([str(tmp_path), f"out={tmp_path / 'r.html'}", "x=foo"])
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
