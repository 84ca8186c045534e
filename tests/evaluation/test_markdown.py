"""Names of any kind, read back from Markdown by a parser."""

from __future__ import annotations

import io
import re
from html import unescape

import pytest
from markdown_it import MarkdownIt
from rich.console import Console

from efpn.evaluation.compare import comparison_markdown, comparison_table
from efpn.evaluation.report import write_row
from efpn.evaluation.rows import Row
from efpn.markdown import as_code, escaped, fact_list, markdown_table

NAMES = [
    "a|b",
    "`code`",
    "two\nlines\r\nor three",
    "<b>bold</b> <script>",
    "*starred* and **more**",
    "_edge_ and a__b__",
    "back\\slash \\| \\* end\\",
    "[red](http://x)",
    "![p](x.png)",
    "~~gone~~",
    "&lt; &#60; R&D",
    "$x$ and $",
    "# no heading",
    "run_1/loss.lambda_pos-0.5 [0, 32) >= 0.5",
    "",
]


def cells(markdown: str) -> list[list[str]]:
    """Texts of a rendered table."""
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown)
    assert set(re.findall("<(\\w+)", page)) <= {"table", "thead", "tbody", "tr", "th", "td"}, page
    rows = re.findall("<tr>(.*?)</tr>", page, re.DOTALL)
    return [[unescape(cell) for cell in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL)] for row in rows]


def test_every_name_is_shown_letter_by_letter():
    table = markdown_table(["name", *NAMES[:2]], [[name, "1", name] for name in NAMES])
    shown = [" ".join(name.split()) for name in NAMES]
    assert cells(table) == [["name", *shown[:2]], *([name, "1", name] for name in shown)]


def test_what_needs_no_escape_has_none():
    plain = "mosaic_efpn/loss.lambda_pos-0.5/seed0 AP_S [0, 32) >= 0.5, 3 < 4 (+0.050) 40 % a-b R&D"
    assert escaped(plain) == plain


@pytest.mark.parametrize("name", NAMES[:-1])
def test_runs_of_any_name_compare_in_markdown_and_on_the_console(tmp_path, name):
    values = {name: 0.5, "[/red] [bold]b": 0.25}
    rows = [Row(name, {"metrics": {"AP": value}}, tmp_path) for name, value in values.items()]
    assert [row[0] for row in cells(comparison_markdown(rows, ["AP"]))] == [
        "",
        " ".join(name.split()),
        "[/red] [bold]b",
    ]
    page = io.StringIO()
    Console(file=page, width=200).print(comparison_table(rows, ["AP"]))
    assert "[/red] [bold]b" in page.getvalue()


def test_a_report_and_its_facts_show_any_name(tmp_path, evaluation, facts):
    write_row(evaluation(name="<i>a</i> | *b*", split="`toy`", facts=facts | {"more": {"of": "<b>"}}))
    page = MarkdownIt("commonmark").enable("table").render((tmp_path / "table.md").read_text())
    assert "<h1>&lt;i&gt;a&lt;/i&gt; | *b* on `toy`</h1>" in page and "<li>of: &lt;b&gt;</li>" in page
    page = MarkdownIt("commonmark").render(
        fact_list({"a_b": "*x*", "command": "python `x` <y>", "seed": None}, "unknown")
    )
    assert "<li>a b: *x*</li>" in page and "<code>python `x` &lt;y&gt;</code>" in page and "seed: unknown" in page


@pytest.mark.parametrize("command", ["a", "`a", "a ``b`` `c`", "two\nlines"])
def test_a_command_is_code_whatever_is_in_it(command):
    page = MarkdownIt("commonmark").render(as_code(command))
    assert unescape(page) == f"<p><code>{' '.join(command.splitlines())}</code></p>\n"
