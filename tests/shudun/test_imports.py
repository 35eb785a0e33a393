"""The scoring package stands alone: no training stack, no network, no pickle, no traces, and late optional imports."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

TRAINING = {"torch", "transformers", "datasets", "accelerate", "evaluate", "shudun_training", "sklearn", "scipy"}
TRAINING |= {"onnx", "onnxscript", "pandas", "yaml", "huggingface_hub"}

LOADED = "import json, sys; print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"

SCORE_ALL = """
import sys
from pathlib import Path
from shudun import Comment, Note, Scorer
from shudun.jobs import score_file

scorer = Scorer.from_bundle(sys.argv[1], "cpu", 2)
scorer.score([Note("标题", "正文"), Comment("评论", parent_text="上文"), "加我微信 demo_0000"])
folder = Path(sys.argv[2])
(folder / "in.csv").write_text("id,text\\n1,好吃\\n", encoding="utf-8")
score_file(folder / "in.csv", folder / "out.jsonl", scorer)
"""

AUDIT = """
import sys
WATCHED = ("socket.", "pickle.", "subprocess.", "os.exec", "os.posix_spawn", "os.system", "os.fork", "urllib.",
           "http.", "ftplib.", "smtplib.", "webbrowser.")
seen = []
def hook(event, arguments):
    if event.startswith(WATCHED) and not event.startswith("socket.gethostname"):
        seen.append(event)
sys.addaudithook(hook)
"""


def run(code, *arguments, **environment):
    """Run Python code in a process of its own, as on a user's machine, and return what it prints."""
    suppressed = ("ORT_DISABLE_TELEMETRY", "CI", "XDG_CACHE_HOME")
    env = {name: value for name, value in os.environ.items() if name not in suppressed} | environment
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=env,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_shudun_loads_nothing_of_the_training_stack_and_no_runtime():
    loaded = json.loads(run("import shudun\n" + LOADED))
    assert {"shudun", "numpy", "tokenizers"} <= set(loaded)
    assert (TRAINING | {"onnxruntime", "pyarrow", "typer", "rich"}) & set(loaded) == set()


@pytest.mark.parametrize("module", ["cli", "jobs", "scorer", "records", "session"])
def test_no_module_loads_the_training_stack(module):
    loaded = json.loads(run(f"import shudun.{module}\n" + LOADED))
    assert (TRAINING | {"onnxruntime", "pyarrow"}) & set(loaded) == set()


def test_scoring_loads_nothing_of_the_training_stack(bundle, tmp_path):
    loaded = json.loads(run(SCORE_ALL + LOADED, bundle, tmp_path))
    assert {"shudun", "onnxruntime"} <= set(loaded)
    assert (TRAINING | {"pyarrow"}) & set(loaded) == set()


def test_the_scoring_command_loads_nothing_of_the_training_stack(bundle, tmp_path):
    code = (
        "import sys\nfrom shudun.cli import main\n"
        "bundle, folder = sys.argv[1:]\n"
        "sys.argv = ['shudun', 'score', folder + '/in.jsonl', folder + '/out.jsonl', '--bundle', bundle]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
    )
    (tmp_path / "in.jsonl").write_text('{"text": "x"}\n', encoding="utf-8")
    loaded = json.loads(run(code + LOADED, bundle, tmp_path).splitlines()[-1])
    assert (TRAINING | {"pyarrow"}) & set(loaded) == set()


def test_scoring_uses_no_network_no_pickle_and_no_processes(bundle, tmp_path):
    assert json.loads(run(AUDIT + SCORE_ALL + "import json; print(json.dumps(seen))", bundle, tmp_path)) == []


def test_the_audit_would_notice():
    code = "import json, pickle, socket\npickle.loads(pickle.dumps(json.JSONDecoder))\nsocket.socket().close()\n"
    seen = json.loads(run(AUDIT + code + "print(json.dumps(seen))"))
    assert {"pickle.find_class", "socket.__new__"} <= set(seen)


def test_scoring_leaves_nothing_in_the_home_folder(bundle, tmp_path):
    """onnxruntime keeps a device id and a queue of reports there unless it is told not to report its use."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    run(SCORE_ALL, bundle, work, HOME=str(home))
    assert [path.name for path in home.rglob("*")] == []
    assert sorted(path.name for path in work.iterdir()) == ["in.csv", "out.jsonl"]


@pytest.mark.parametrize(
    ("extra", "missing", "code"),
    [
        ("cpu", "onnxruntime", "from shudun import Scorer; Scorer.from_bundle(sys.argv[1])"),
        ("parquet", "pyarrow", "from shudun.records import read_records; list(read_records(path))"),
        ("parquet", "pyarrow", "from shudun.jobs import open_writer; open_writer(path, ('a',)).__enter__()"),
        (
            "train",
            "shudun_training",
            "from shudun.cli import app; app(['train', '--config', 'x'], standalone_mode=False)",
        ),
    ],
    ids=["onnxruntime", "read parquet", "write parquet", "train"],
)
def test_a_missing_extra_is_named_with_its_install_line(bundle, tmp_path, extra, missing, code):
    (tmp_path / "rows.parquet").write_bytes(b"")
    prelude = f"import sys; from pathlib import Path; path = Path(sys.argv[2]); sys.modules['{missing}'] = None\n"
    wrapped = f"try:\n    {code}\nexcept Exception as error:\n    print(type(error).__name__, error)\n"
    out = run(prelude + wrapped, bundle, tmp_path / "rows.parquet")
    assert out.startswith("MissingExtraError ")
    assert out.strip().endswith(f"Install it with: pip install 'shudun[{extra}]'")
