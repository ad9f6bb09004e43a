"""report.html: one file that holds everything, without scripts and without a network."""

from __future__ import annotations

import base64
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --muted: #65656b; --page: #f4f4f6; --card: #ffffff;
  --rule: #d9d9de; --edge: #00000033; --yes: #0072b2; --no: #b34a00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #f2f2f4; --muted: #a5a5ad; --page: #000000; --card: #1c1c1e; --rule: #3a3a3e; --edge: #ffffff40;
    --yes: #56b4e9; --no: #f0904a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 1rem; }
main.wide { max-width: 68rem; }
h1 { font-size: 1.15rem; margin: .5rem 0 1rem; color: var(--muted); font-weight: 600; }
h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
.scroll { margin: 0 0 .7rem; overflow-x: auto; background:
  linear-gradient(to right, var(--card) 1.2rem, transparent) local,
  linear-gradient(to left, var(--card) 1.2rem, transparent) right local,
  linear-gradient(to right, var(--edge), transparent) left / .7rem 100% no-repeat scroll,
  linear-gradient(to left, var(--edge), transparent) right / .7rem 100% no-repeat scroll; }
section, .headline { background: var(--card); border-radius: 12px; padding: 1rem 1.1rem; margin: 0 0 1rem; }
.headline p { margin: 0; font-size: 1.3rem; line-height: 1.4; }
.headline .note { font-size: .95rem; color: var(--muted); margin-top: .6rem; }
p { margin: 0 0 .7rem; }
p.small, ul.small, figcaption { color: var(--muted); font-size: .9rem; }
figure { margin: 0 auto 1rem; max-width: 44rem; }
figure img { width: 100%; height: auto; display: block; border-radius: 6px; }
figcaption { margin-top: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: left; padding: .4rem .8rem .4rem 0;
  border-bottom: 1px solid var(--rule); vertical-align: top; }
th { color: var(--muted); font-weight: 600; font-size: .85rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
tr.unsound td { color: var(--no); }
table.pairs { table-layout: fixed; }
table.pairs th { width: 11rem; }
table.pairs th, table.pairs td { overflow-wrap: break-word; }
@media (max-width: 40rem) { table.pairs th { width: 43%; } }
sub { line-height: 0; font-size: .75em; }
ul { margin: 0 0 .7rem; padding-left: 1.2rem; }
li { margin-bottom: .35rem; }
summary { cursor: pointer; }
pre { margin: 0 0 .7rem; padding: .6rem .8rem; border: 1px solid var(--rule); border-radius: 6px; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Picture:
    """An SVG picture for a light and a dark page, with words for who cannot see it."""

    light: bytes
    dark: bytes
    alternative: str
    caption: str


def text(words: str) -> str:
    """Escaped text: the two symbols of the comparison as the literature has them, intervals and shares in one piece."""
    words = _TOGETHER.sub("\N{NO-BREAK SPACE}", escape(words))
    return words.replace("h_min", "h<sub>min</sub>").replace("p_A", "p<sub>A</sub>")


#: The space in [-0.2, 0.2] and before a per cent sign.
_TOGETHER = re.compile(r"(?<=[\d.],) (?=[\d.−]+\])|(?<=\d) (?=%)")


def data_uri(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def figure(picture: Picture) -> str:
    return (
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{data_uri(picture.dark)}">'
        f'<img src="{data_uri(picture.light)}" alt="{escape(picture.alternative)}"></picture>'
        f"<figcaption>{text(picture.caption)}</figcaption></figure>"
    )


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    numeric: Sequence[int] = (),
    flagged: Sequence[int] = (),
    strong: Collection[tuple[int, int]] = (),
) -> str:
    """A table; ``numeric`` columns are right-aligned, ``flagged`` rows carry the warning colour, ``strong`` cells (row,
    column) are bold."""

    def cell(tag: str, column: int, words: str, bold: bool = False) -> str:
        kind = ' class="number"' if column in numeric else ""
        content = f"<strong>{text(words)}</strong>" if bold else text(words)
        return f"<{tag}{kind}>{content}</{tag}>"

    def line(number: int, row: Sequence[str]) -> str:
        kind = ' class="unsound"' if number in flagged else ""
        cells = (cell("td", i, words, (number, i) in strong) for i, words in enumerate(row))
        return f"<tr{kind}>{''.join(cells)}</tr>"

    head = "".join(cell("th", i, words) for i, words in enumerate(header))
    body = "".join(line(number, row) for number, row in enumerate(rows))
    return f"{_SCROLL}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A table of (name, value) without a header; dotted names may break after a dot."""
    body = "".join(f"<tr><th>{text(k).replace('.', '.<wbr>')}</th><td>{text(v)}</td></tr>" for k, v in rows)
    return f'{_SCROLL}<table class="pairs"><tbody>{body}</tbody></table></div>'


#: What is wider than the page scrolls by itself, by keyboard, too.
_SCROLL = '<div class="scroll" tabindex="0">'


def bullets(sentences: Sequence[str], small: bool = False) -> str:
    if not sentences:
        return ""
    kind = ' class="small"' if small else ""
    return f"<ul{kind}>" + "".join(f"<li>{text(sentence)}</li>" for sentence in sentences) + "</ul>"


def section(title: str, *content: str) -> str:
    return f"<section><h2>{text(title)}</h2>{''.join(content)}</section>"


def paragraph(words: str, small: bool = False) -> str:
    kind = ' class="small"' if small else ""
    return f"<p{kind}>{text(words)}</p>"


def command(line: str) -> str:
    """A line to type, as it is."""
    return f"<pre><code>{escape(line)}</code></pre>"


def details(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def page(title: str, headline: str, note: str, sections: Sequence[str], wide: bool = False) -> str:
    """The whole file; ``wide`` leaves room for tables of many columns."""
    kind = ' class="wide"' if wide else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main{kind}>"
        f'<h1>{escape(title)}</h1><div class="headline"><p>{text(headline)}</p>'
        + (f'<p class="note">{text(note)}</p>' if note else "")
        + f"</div>{''.join(sections)}</main></body></html>\n"
    )
