"""The command line: exit code 0 done, 1 refused with one message that says why, 2 wrong usage."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from shudun import Comment, Note, Taxonomy
from shudun.normalization import NORMALIZER_VERSION
from shudun.version import __version__

VERBS = [
    ["score"],
    ["info"],
    ["train"],
    ["tune"],
    ["export"],
    ["evaluate"],
    ["data"],
    ["data", "validate"],
    ["data", "audit"],
    ["data", "split"],
    ["data", "noise"],
    ["data", "import"],
    ["data", "export"],
    ["runs"],
    ["runs", "list"],
    ["runs", "compare"],
]
ROWS = [{"id": "a", "text": "加我微信 demo_0000"}, {"id": "b", "kind": "note", "title": "晚霞", "text": "好温柔"}]


@pytest.fixture
def job(bundle, write_jsonl, tmp_path):
    """The arguments of a job that works; tests replace what they need."""

    def arguments(*options, rows=ROWS, source=None, target=None, bundle=bundle):
        return ["score", source or write_jsonl(rows), target or tmp_path / "out.jsonl", "--bundle", bundle, *options]

    return arguments


def load(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- as a process -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def process():
    """Run the installed command."""
    script = Path(sys.executable).with_name("shudun")
    if not script.exists():
        pytest.skip("the shudun command is not installed beside this Python")

    def run(*arguments, **environment):
        return subprocess.run(
            [script, *map(str, arguments)],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
            check=False,
            env=os.environ | environment,
        )

    return run


def test_a_job_as_a_process(process, job, scorer, tmp_path):
    done = process(*job())
    assert done.returncode == 0, done.stderr
    expected = scorer.score([Comment("加我微信 demo_0000", id="a"), Note("晚霞", "好温柔", id="b")])
    written = load(tmp_path / "out.jsonl")
    assert [(row["id"], row["suggestion"]) for row in written] == [(row.id, row.suggestion) for row in expected]
    for row, other in zip(written, expected, strict=True):
        assert row["scores"] == pytest.approx(dict(other.scores), abs=1e-5)
    assert "scored into" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_refused_job_as_a_process(process, job, tmp_path):
    done = process(*job(source=tmp_path / "nowhere.jsonl"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {tmp_path / 'nowhere.jsonl'}: no such file"
    assert "Traceback" not in done.stderr


def test_wrong_usage_as_a_process(process):
    done = process("score")
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: shudun score" in done.stderr


# --- help -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("verb", [[], *VERBS], ids=" ".join)
def test_every_verb_explains_itself(shudun, verb, option):
    code, out, err = shudun(*verb, option)
    assert (code, err) == (0, "")
    assert re.search(" ".join([r"Usage: \S*.*shudun", *verb]), out)
    assert "--help" in out


def test_without_a_verb_the_help_is_shown(shudun):
    _, out, err = shudun()
    assert "Usage: " in out + err
    assert all(verb in out + err for verb in ("score", "info", "train", "tune", "export", "evaluate", "data"))


def test_the_version_is_shown(shudun):
    assert shudun("--version") == (0, f"shudun {__version__}", "")


# --- score ------------------------------------------------------------------------------------------------------


def test_a_job_reports_its_counts(shudun, job, tmp_path):
    rows = [*ROWS, {"id": "c", "text": "长" * 100}, {"id": "d", "text": " "}, {"id": "e"}]
    code, out, _ = shudun(*job("--on-bad-row", "skip", rows=rows))
    assert code == 0
    for line in ("read 5", "scored 3", "failed 1", "rejected 1", "truncated 1"):
        assert line in out
    assert f"rejected rows with their reasons: {tmp_path / 'out.jsonl.rejected.jsonl'}" in out
    assert [row["line"] for row in load(tmp_path / "out.jsonl.rejected.jsonl")] == [5]


def test_names_are_shown_as_they_are(shudun, job, tmp_path):
    code, out, _ = shudun(*job("--on-bad-row", "skip", rows=[*ROWS, {}], target=tmp_path / "[red]x[" / "[b]out.jsonl"))
    assert code == 0
    assert "[red]x[" in out
    assert "[b]out.jsonl.rejected.jsonl" in out


def test_threads_and_batch_size_are_taken(shudun, job):
    code, out, _ = shudun(*job("--threads", 1, "--batch-tokens", 64, "--device", "cpu"))
    assert code == 0
    assert "on 1 threads" in out


def test_columns_are_mapped(shudun, job, tmp_path):
    rows = [{"no": 9, "review": "好吃"}]
    assert shudun(*job("--column", "text=review", "--column", "id=no", rows=rows))[0] == 0
    assert [row["id"] for row in load(tmp_path / "out.jsonl")] == ["9"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a"}], "rows.jsonl:1: field 'text': expected a string, got nothing."),
        ([ROWS[0], ROWS[0]], "rows.jsonl:2: field 'id': expected an id that stands once, got str 'a'."),
        (
            [ROWS[0], {"text": "x", "kind": "[/b]"}],
            "rows.jsonl:2: field 'kind': expected note or comment, got str '[/b]'.",
        ),
        ([ROWS[0], [1]], "rows.jsonl:2: field '(row)': expected a JSON object, got list."),
    ],
)
def test_a_bad_row_ends_the_job_with_its_place(shudun, job, tmp_path, rows, message):
    code, out, err = shudun(*job(rows=rows))
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("rows.txt", b"x", "expected a file ending in .jsonl, .csv, .parquet"),
        ("rows.jsonl.gz", b"x", "the compressed file is damaged or cut short"),
        ("rows.parquet", b"x", "cannot be read as Parquet"),
        ("rows.csv", "编号,评论\n1,x\n".encode("gb18030"), "the CSV header is not valid UTF-8"),
        ("rows.csv", "id,text\n1,好\n".encode("gb18030"), "expected valid UTF-8, got an invalid byte in column 'text'"),
    ],
)
def test_an_unusable_input_is_refused(shudun, job, tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    code, _, err = shudun(*job(source=tmp_path / name))
    assert code == 1
    assert name in err
    assert message in err


def test_an_unusable_output_is_refused(shudun, job, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    (tmp_path / "folder.jsonl").mkdir()
    for target, message in [
        (tmp_path / "out.csv", "expected an output file ending in .jsonl or .parquet"),
        (tmp_path / "rows.jsonl", "input and output are the same file"),
        (tmp_path / "folder.jsonl", "is a folder"),
        (tmp_path / "file" / "out.jsonl", "error: [Errno"),
    ]:
        code, out, err = shudun(*job(target=target))
        assert (code, out) == (1, "")
        assert message in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_full_disk_is_one_message(shudun, job, tmp_path):
    (tmp_path / "out.jsonl.partial").symlink_to("/dev/full")
    code, _, err = shudun(*job())
    assert code == 1
    assert "No space left on device" in err


def test_an_unusable_bundle_is_refused(shudun, job, copied, tmp_path):
    (copied / "model.onnx").write_bytes(b"x")
    for folder, message in [
        (tmp_path / "nowhere", "is this a complete bundle folder?"),
        (copied, "model.onnx: contents do not match the manifest"),
    ]:
        code, out, err = shudun(*job(bundle=folder))
        assert (code, out) == (1, "")
        assert message in err


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has CUDA")
def test_a_missing_gpu_is_refused(shudun, job, tmp_path):
    code, _, err = shudun(*job("--device", "cuda"))
    assert code == 1
    assert "pip install 'shudun[gpu]'" in err
    assert not (tmp_path / "out.jsonl").exists()


def test_a_bad_thread_setting_in_the_environment_is_refused(shudun, job, monkeypatch):
    monkeypatch.setenv("ORT_INTRA_OP_NUM_THREADS", "many")
    code, _, err = shudun(*job())
    assert code == 1
    assert "ORT_INTRA_OP_NUM_THREADS: expected a positive whole number of threads, got 'many'" in err


def test_a_mapped_column_that_is_not_there_is_refused(shudun, job):
    code, _, err = shudun(*job("--column", "text=review"))
    assert code == 1
    assert "no column review" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threads", "0"], "'--threads'"),
        (["--threads", "many"], "'--threads'"),
        (["--batch-tokens", "0"], "'--batch-tokens'"),
        (["--device", "gpu"], "'--device'"),
        (["--on-bad-row", "ignore"], "'--on-bad-row'"),
        (["--column", "text"], "--column takes FIELD=COLUMN"),
        (["--column", "=review"], "--column takes FIELD=COLUMN"),
        (["--column", "text="], "--column takes FIELD=COLUMN"),
        (["--colour", "red"], "--colour"),
        (["surplus"], "surplus"),
    ],
)
def test_wrong_usage_is_exit_code_2(shudun, job, tmp_path, options, message):
    code, out, err = shudun(*job(*options))
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("arguments", [["score"], ["score", "a"], ["evaluate"], ["nothing"], ["data", "nothing"]])
def test_missing_arguments_are_exit_code_2(shudun, arguments):
    code, _, err = shudun(*arguments)
    assert code == 2
    assert "Usage: " in err


# --- info -------------------------------------------------------------------------------------------------------


def test_info_shows_what_a_bundle_is(shudun, bundle, scorer):
    code, out, err = shudun("info", bundle)
    assert (code, err) == (0, "")
    for expected in (
        "name tiny",
        "max_length 32 tokens",
        f"normalizer {NORMALIZER_VERSION}",
        f"sha256 {scorer.manifest.files['model.onnx'].sha256[:16]}",
        "taxonomy test 1",
        "policy default",
    ):
        assert expected in out
    for label in scorer.taxonomy.labels:
        assert f"{label.id} {label.name_zh} {label.tier} {', '.join(label.applies_to)} 0.500" in out


def test_info_shows_label_ids_whole_even_where_lines_are_short(process, make_vivid, taxonomy):
    longer = taxonomy.to_dict()
    longer["labels"][2]["id"] = "a_label_with_a_rather_long_name"
    done = process("info", make_vivid(taxonomy=Taxonomy.from_dict(longer)), COLUMNS="80")
    assert done.returncode == 0
    for label in ("diversion", "note_only", "a_label_with_a_rather_long_name", "hard_sell"):
        assert label in done.stdout


def test_info_shows_names_with_brackets_as_they_are(shudun, make_vivid, taxonomy):
    odd = taxonomy.to_dict()
    odd["labels"][0]["name_zh"] = "[bold]导流[/x]"
    code, out, _ = shudun("info", make_vivid(taxonomy=Taxonomy.from_dict(odd), name="[red]tiny[/]"))
    assert code == 0
    assert "[bold]导流[/x]" in out
    assert "[red]tiny[/]" in out


def test_info_refuses_what_is_no_bundle(shudun, tmp_path):
    code, out, err = shudun("info", tmp_path)
    assert (code, out) == (1, "")
    reason = "cannot be read: No such file or directory; is this a complete bundle folder?"
    assert err == f"error: {tmp_path}/manifest.json: {reason}"


def test_the_data_verbs_pass_their_options_on(shudun, write_jsonl, tmp_path):
    taxonomy = Path(__file__).parents[2] / "configs" / "taxonomy" / "xhs.yaml"
    texts = [chr(0x4E00 + i) * 5 + chr(0x5E00 + 7 * i) * 5 for i in range(60)]
    rows = [{"id": f"r{i}", "text": text, "labels": ["clickbait"] * (i % 2), "kind": "note", "g": i // 2}
            for i, text in enumerate(texts)]  # fmt: skip
    source, out = write_jsonl(rows), tmp_path / "out"
    share = ["--shares", "train=0.5,test=0.5", "--group-column", "g", "--seed", "3"]
    code, *_ = shudun("data", "split", source, out, "--taxonomy", taxonomy, *share)
    assert (code, sorted(path.name for path in out.iterdir())) == (0, ["test.jsonl", "train.jsonl"])
    assert shudun("data", "split", out, "--check", "--taxonomy", taxonomy, "--group-column", "g")[0] == 0
    assert shudun("data", "split", out, out, "--check", "--taxonomy", taxonomy)[0] == 2
    assert shudun("data", "split", source, "--taxonomy", taxonomy)[0] == 2
    (out / "extra.jsonl").write_text(json.dumps(rows[0] | {"id": "x"}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert shudun("data", "split", out, "--check", "--taxonomy", taxonomy)[0] == 1
    files = [out / "train.jsonl", out / "test.jsonl", out / "extra.jsonl"]
    options = ["--group-column", "none", "--split-of", f"{files[2]}=shadow", "--json", tmp_path / "a.json"]
    code, _, error = shudun("data", "audit", *files, "--taxonomy", taxonomy, *options)
    assert (code, "near_duplicate_leakage" in error) == (1, True)
    assert list(json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))["splits"]) == ["train", "test", "shadow"]
    for ignore in (["--near-duplicates", "off"], ["--fail-on", "never"]):
        assert shudun("data", "audit", *files, "--taxonomy", taxonomy, *options, *ignore)[0] == 0
    queue = ["--output", tmp_path / "queue.jsonl", "--limit", "7", "--group-column", "g"]
    assert shudun("data", "noise", source, "--taxonomy", taxonomy, *queue)[0] == 0
    assert len((tmp_path / "queue.jsonl").read_text(encoding="utf-8").splitlines()) == 7


def test_a_folder_of_runs_is_listed_without_a_verb(shudun, tmp_path):
    bad = tmp_path / "compare" / "bad"
    bad.mkdir(parents=True)
    (bad / "run.json").write_text("{", encoding="utf-8")
    for arguments in ([tmp_path], ["list", tmp_path], ["--sort", "name", tmp_path]):
        code, out, _ = shudun("runs", *arguments, "--json", "-")
        assert (code, [run["state"] for run in json.loads(out)["runs"]]) == (0, ["damaged"]), arguments
    assert shudun("runs", "--sort", "size", tmp_path)[0] == 2
    code, _, error = shudun("runs", tmp_path / "none")
    assert (code, "no such folder" in error) == (1, True)
    code, _, error = shudun("runs", "compare", bad, bad)
    assert (code, "run.json" in error) == (1, True)
    assert shudun("runs", "compare")[0] == 2
