"""`shudun data audit`: green on the shipped data, and each check fires on the fault that it is for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from shudun import Comment, Note, ShudunError
from shudun_training.audit.findings import DEFAULT_LEVELS, Finding, failing, parse_levels
from shudun_training.audit.html_report import render_html
from shudun_training.audit.report import AuditReport
from shudun_training.audit.runner import audit, audit_files
from shudun_training.audit.surface import FEATURES, measure, surface_auc
from shudun_training.config import load_taxonomy

ROOT = Path(__file__).parents[2]
TAXONOMY_FILE = ROOT / "configs" / "taxonomy" / "xhs.yaml"
TAXONOMY = load_taxonomy(TAXONOMY_FILE)
SHIPPED = [ROOT / "data_cards" / "shudun-xhs" / f"{split}.jsonl" for split in ("train", "validation", "test")]
LONG = "昨晚在江边吹风，碰到一个卖烤红薯的大爷，他说今年的雪会下得比去年早，我买了两个，一个给了门口的保安"
WriteJsonl = Callable[..., Path]


def texts(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, 30))) for _ in range(count)]


def comment(text: str, labels: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    return {"text": text, "labels": labels or [], **fields}


def checks(report: AuditReport) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in report.findings:
        found.setdefault(finding.check, []).append(finding)
    return found


@pytest.fixture
def audited(write_jsonl: WriteJsonl) -> Callable[..., dict[str, list[Finding]]]:
    """Audit rows by split; findings by check, without those about labels that so few rows cannot have."""

    def run(*, options: dict[str, Any] | None = None, **splits: list[Any]) -> dict[str, list[Finding]]:
        files = [write_jsonl(rows, f"{split}.jsonl") for split, rows in splits.items()]
        found = checks(audit(files, TAXONOMY, **(options or {})))
        return {check: findings for check, findings in found.items() if "positives" not in check}

    return run


@pytest.fixture(scope="module")
def shipped() -> AuditReport:
    return audit(SHIPPED, TAXONOMY)


def test_the_shipped_data_have_no_error_and_no_warning(shipped: AuditReport) -> None:
    assert [finding for finding in shipped.findings if finding.level != "note"] == []
    assert shipped.splits == ["train", "validation", "test"]
    assert shipped.rows == sum(file.good for file in shipped.files) >= 3000
    assert shipped.repeated == {"exactly": 0, "nearly": 0}
    assert not shipped.personal_data


def test_the_report_counts_what_stands_in_the_files(shipped: AuditReport) -> None:
    for path in SHIPPED:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        split = shipped.to_dict()["splits"][path.stem]
        assert split["rows"] == len(rows)
        assert split["notes"] == sum(row["kind"] == "note" for row in rows)
        assert split["clean"] == sum(not row["labels"] for row in rows)
        for label in TAXONOMY.label_ids:
            assert split["positives"][label] == sum(label in row["labels"] for row in rows)
            assert split["unknown"][label] == sum(label in row.get("unknown_labels", []) for row in rows)
        for first, second, count in split["together"]:
            assert count == sum({first, second} <= set(row["labels"]) for row in rows) > 0


def test_different_rows_have_no_findings(audited: Callable[..., dict[str, list[Finding]]]) -> None:
    rows = [comment(text, group=str(i)) for i, text in enumerate(texts(80))]
    assert audited(train=rows[:60], test=rows[60:]).keys() <= {"unknown_tokens"}


@pytest.mark.parametrize(
    "other",
    [LONG, LONG.replace("两个", "三个"), " ".join(LONG), LONG + "！！"],
    ids=["copy", "edit", "spaced", "longer"],
)
def test_near_duplicates_across_splits_are_leakage(
    audited: Callable[..., dict[str, list[Finding]]], other: str
) -> None:
    found = audited(train=[comment(LONG, id="a")], test=[comment(other, id="b")])
    assert found["near_duplicate_leakage"][0].count == 1
    assert found["near_duplicate_leakage"][0].level == "error"
    assert re.match(r"train: a «昨晚.*» ~ test: b «昨", found["near_duplicate_leakage"][0].examples[0])


def test_the_same_words_under_another_parent_are_leakage(audited: Callable[..., dict[str, list[Finding]]]) -> None:
    parents = texts(2)
    rows = [comment("这家的面真的好吃", parent_text=parent) for parent in parents]
    found = audited(train=rows[:1], test=rows[1:])
    assert found["judged_text_leakage"][0].count == 1
    assert "near_duplicate_leakage" not in found
    short = [comment("求链接", parent_text=parent) for parent in parents]
    assert "judged_text_leakage" not in audited(train=short[:1], test=short[1:])


def test_a_group_in_two_splits_is_leakage(audited: Callable[..., dict[str, list[Finding]]]) -> None:
    first, second = texts(2)
    found = audited(train=[comment(first, group="g")], test=[comment(second, group="g")])
    assert found["group_leakage"][0].level == "error"
    assert not audited(train=[comment(first, group="g"), comment(second, group="g")]).get("group_leakage")
    assert not audited(train=[comment(first, group="")], test=[comment(second, group="")]).get("group_leakage")
    assert audited(train=[comment(first, brand=7)], test=[comment(second, brand=7)], options={"group_column": "brand"})[
        "group_leakage"
    ]


def test_labels_on_which_near_duplicates_differ_are_conflicts(
    audited: Callable[..., dict[str, list[Finding]]],
) -> None:
    rows = [comment(LONG, ["dm_solicitation"], id="yes"), comment(LONG + "！", id="no")]
    (found,) = audited(train=rows)["conflicting_labels"]
    assert found.level == "error"
    assert found.message.startswith("dm_solicitation: 1 families")
    assert found.examples[0].startswith("positive: yes «")
    rows[1]["unknown_labels"] = ["dm_solicitation"]
    assert "conflicting_labels" not in audited(train=rows)


def test_many_repeated_rows_of_one_split_are_reported(audited: Callable[..., dict[str, list[Finding]]]) -> None:
    found = audited(train=[comment(text) for text in texts(20)] + [comment(LONG)] * 3)
    assert found["duplicates_within_split"][0].count == 2
    assert "near_duplicate_leakage" not in found


def test_the_search_for_duplicates_can_be_limited(audited: Callable[..., dict[str, list[Finding]]]) -> None:
    splits = {"train": [comment(LONG)], "test": [comment(LONG.replace("两", "三"))]}
    assert "near_duplicate_leakage" not in audited(**splits, options={"near_duplicates": "exact"})
    splits["test"] = [comment("　" + LONG)]
    assert "near_duplicate_leakage" in audited(**splits, options={"near_duplicates": "exact"})
    assert "near_duplicate_leakage" not in audited(**splits, options={"near_duplicates": "off"})


def test_personal_data_are_errors_and_shown_masked_everywhere(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    phone, handle = "13812345678", "lily_19920"
    rows = [comment(f"{phone}，{LONG}", id="a"), comment(f"{phone}，{LONG}！", id="b")]
    rows.append(comment("好的", id="c", parent_text=f"加微信{handle}"))
    train, test = write_jsonl(rows[:1], "train.jsonl"), write_jsonl(rows[1:], "test.jsonl")
    report = audit([train, test], TAXONOMY)
    found = checks(report)
    assert found["personal_data"][0].count == 3
    assert found["personal_data"][0].examples[0] == "a: phone 13********8"
    assert report.personal_data == {"phone": 2, "contact_handle": 1}
    assert "near_duplicate_leakage" in found
    with pytest.raises(ShudunError, match="personal_data"):
        audit_files([train, test], TAXONOMY_FILE, html=tmp_path / "a.html", json_path=tmp_path / "a.json")
    for written in ("a.html", "a.json"):
        text = (tmp_path / written).read_text(encoding="utf-8")
        assert "13********8" in text
        assert phone not in text
        assert handle not in text


def test_links_to_real_domains_are_warnings(audited: Callable[..., dict[str, list[Finding]]]) -> None:
    found = audited(train=[comment("看 https://shop.taobao.cn/1 和 https://example.com/2")])
    assert (found["links"][0].count, found["links"][0].level) == (1, "warning")
    assert "personal_data" not in found


def test_invalid_rows_and_evidence_that_does_not_fit_are_errors(
    audited: Callable[..., dict[str, list[Finding]]],
) -> None:
    span = {"label": "dm_solicitation", "field": "text", "start": 0, "end": 99}
    rows = [
        comment("好看"),
        comment("x", ["nothing"]),
        comment("滴滴我", ["dm_solicitation"], evidence=[span]),
        {"id": "y"},
    ]
    (found,) = audited(train=rows)["invalid_rows"]
    assert (found.count, found.level) == (3, "error")
    assert [re.search(r"jsonl:(\d+): (\S+):", example).groups() for example in found.examples] == [
        ("2", "labels"),
        ("3", "evidence[0]"),
        ("4", "text"),
    ]


def test_the_number_of_invalid_rows_is_exact_beyond_the_examples(
    audited: Callable[..., dict[str, list[Finding]]],
) -> None:
    found = audited(train=[comment("好看"), *[{"text": ""}] * 9])["invalid_rows"][0]
    assert (found.count, len(found.examples)) == (9, 5)


def test_a_positive_label_without_a_span_is_missing_evidence_where_the_row_has_any(
    audited: Callable[..., dict[str, list[Finding]]],
) -> None:
    labels = ["dm_solicitation", "shill_comment"]
    span = {"label": "dm_solicitation", "field": "text", "start": 0, "end": 3}
    found = audited(train=[comment("滴滴我，真的好用", labels, id="a", evidence=[span])])
    assert found["missing_evidence"][0].examples == ("a: shill_comment",)
    assert "missing_evidence" not in audited(train=[comment("滴滴我，真的好用", labels)])


def test_an_id_in_two_files_is_an_error_but_a_row_without_one_is_not(
    audited: Callable[..., dict[str, list[Finding]]],
) -> None:
    first, second = texts(2)
    found = audited(train=[comment(first, id="a")], test=[comment(second, id="a")])
    assert found["repeated_ids"][0].examples == ("a again in test.jsonl",)
    assert "repeated_ids" not in audited(train=[comment(first)], test=[comment(second)])


def test_characters_that_the_vocabulary_lacks_are_counted_and_named(
    audited: Callable[..., dict[str, list[Finding]]], tiny_bundle: Path
) -> None:
    rows = [comment("加我微信🦄🦄"), comment("好看龘")]
    found = audited(train=rows, options={"tokenizer": tiny_bundle})["unknown_tokens"][0]
    assert "'🦄' 2 times" in found.examples
    assert found.count >= 3
    found = audited(train=[comment(text) for text in ["加我微信"] * 40], test=rows)["unknown_tokens"]
    assert [finding.message.partition(":")[0] for finding in found] == ["test"]


@pytest.mark.parametrize("content", ["{", "{}", '{"version": "1.0"}'])
def test_a_file_that_is_no_tokenizer_is_refused(write_jsonl: WriteJsonl, tmp_path: Path, content: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ShudunError, match=r"cannot be read as a tokenizer\.json"):
        audit([write_jsonl([comment("好")])], TAXONOMY, tokenizer=tmp_path)


def test_a_label_that_its_length_gives_away_is_reported(audited: Callable[..., dict[str, list[Finding]]]) -> None:
    rows = [comment(text[:10]) for text in texts(40)] + [comment(text, ["dm_solicitation"]) for text in texts(40, 1)]
    found = audited(train=rows)["surface_imbalance"][0]
    assert found.examples == ("dm_solicitation by characters: AUC 1.00",)
    assert "surface_imbalance" not in audited(train=[{**row, "text": row["text"][:10]} for row in rows])


def test_labels_without_and_with_few_positives_are_named(write_jsonl: WriteJsonl) -> None:
    found = checks(audit([write_jsonl([comment("滴滴", ["dm_solicitation"])])], TAXONOMY))
    assert found["labels_without_positives"][0].count == len(TAXONOMY.labels) - 1
    assert "dm_solicitation 1" in found["few_positives"][0].message


def test_surface_auc_is_that_of_scikit_learn_within_each_kind() -> None:
    rng = np.random.default_rng(0)
    surface = rng.integers(0, 6, (400, len(FEATURES))).astype(np.int32)
    kind = rng.integers(0, 2, 400).astype(np.int8)
    labels = (rng.random((400, 2)) < [0.4, 0.05]).astype(np.int8)
    surface[labels[:, 0] == 1, 0] += 2
    clean = (labels != 1).all(axis=1)
    auc = surface_auc(surface, labels, clean, kind)
    for feature in range(len(FEATURES)):
        parts = []
        for value in (0, 1):
            rows = (kind == value) & (clean | (labels[:, 0] == 1))
            truth = labels[rows, 0] == 1
            parts.append((truth.sum(), roc_auc_score(truth, surface[rows, feature])))
        expected = sum(weight * value for weight, value in parts) / sum(weight for weight, _ in parts)
        assert auc[0, feature] == pytest.approx(expected)
    assert np.isnan(auc[1]).all()


def test_surface_counts() -> None:
    counts = measure([Comment("冲！!❤️😀 12，", parent_text="不算"), Note("题！", "正文")])
    assert counts.tolist() == [[10, 2, 3, 2, 2], [4, 0, 1, 1, 0]]


def test_splits_can_be_named_and_read_from_a_column(write_jsonl: WriteJsonl) -> None:
    first, second = texts(2)
    path = write_jsonl([comment(first, part="a"), comment(second, part="b")], "all.v2.jsonl")
    assert audit([path], TAXONOMY).splits == ["all"]
    assert audit([path], TAXONOMY, split_of={path: "train"}).splits == ["train"]
    assert audit([path], TAXONOMY, split_column="part").splits == ["a", "b"]
    with pytest.raises(ShudunError, match="has no 'other', which --split-column names"):
        audit([path], TAXONOMY, split_column="other")
    with pytest.raises(ShudunError, match="expected FILE=SPLIT with one of the audited files"):
        audit_files([path], TAXONOMY_FILE, split_of=["other.jsonl=train"])


def test_levels_decide_what_fails(write_jsonl: WriteJsonl, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl([comment("看 https://shop.taobao.cn/1", id="a")])
    audit_files([path], TAXONOMY_FILE)
    with pytest.raises(ShudunError, match=r"of level warning or above: links"):
        audit_files([path], TAXONOMY_FILE, fail_on="warning", levels=["labels_without_positives=note"])
    with pytest.raises(ShudunError, match=r"of level error or above: links$"):
        audit_files([path], TAXONOMY_FILE, levels=["links=error"])
    audit_files([path], TAXONOMY_FILE, levels=["links=error"], fail_on="never")
    assert "links to real domains" in " ".join(capsys.readouterr().out.split())
    for wrong in ("links", "links=fatal", "nothing=error"):
        with pytest.raises(ShudunError, match=r"expected CHECK=LEVEL with a check of invalid_rows, .* and a level of"):
            parse_levels([wrong])


def test_findings_at_or_above_a_level_fail() -> None:
    findings = [Finding("links", 1, "", level=level) for level in ("error", "warning", "note")]
    for fail_on, count in (("never", 0), ("error", 1), ("warning", 2), ("note", 3)):
        assert len(failing(findings, fail_on)) == count  # type: ignore[arg-type]


def test_every_check_that_can_be_reported_has_a_level(shipped: AuditReport) -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "training/shudun_training/audit").glob("*.py")
    )
    named = set(re.findall(r'(?:Finding\(\s*|leakage\(\s*|\.finding\(\s*)"(\w+)"', source))
    assert named == set(DEFAULT_LEVELS)


def test_the_page_stands_alone_and_every_text_in_it_is_escaped(write_jsonl: WriteJsonl) -> None:
    text = "<script>alert(1)</script>&<b>粗</b>" + LONG
    files = [write_jsonl([comment(text, id=f"<i>{name}</i>")], f"{name}.jsonl") for name in ("<img>", "测试")]
    page = render_html(audit(files, TAXONOMY))
    assert "<script" not in page
    assert "<i>" not in page
    assert "<img>" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "测试" in page
    assert all(label.name_zh in page for label in TAXONOMY.labels)
    outside = re.findall(r"""(?:src|href|action)\s*=\s*["'](?!#)|url\((?!#)|@import|<link|<iframe""", page)
    assert outside == []


def test_the_plots_are_whole_and_keep_their_text(shipped: AuditReport) -> None:
    page = render_html(shipped)
    drawn = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(drawn) == 4
    for svg in drawn:
        assert {*re.findall(r"<text[^>]*>([^<]+)</text>", svg)} & {*TAXONOMY.label_ids, "characters"}
    ids = [set(re.findall(r'id="([^"]+)"', svg)) for svg in drawn]
    referenced = [set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', svg)) for svg in drawn]
    for own, used in zip(ids, referenced, strict=True):
        assert {name for pair in used for name in pair if name} <= own
    assert render_html(shipped) == page


def test_an_unusable_file_and_a_file_without_rows_are_refused(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match="no such file"):
        audit([tmp_path / "none.jsonl"], TAXONOMY)
    with pytest.raises(ShudunError, match="no usable row in"):
        audit([write_jsonl([{"text": ""}])], TAXONOMY)
