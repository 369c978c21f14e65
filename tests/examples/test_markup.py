from pathlib import Path

import pytest

from examples.markup import fortunes, html_paragraphs, pod_paragraphs


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.pod"


def test_html_keeps_blocks_and_drops_code_and_furniture(file: Path) -> None:
    file.write_text(
        "<html><head><title>no</title></head><body><nav><p>no</p></nav><h1>One &amp; two</h1>"
        "<p>Some <b>bold</b>\n text.<pre>no</pre></p><ul><li>first<li>second</ul><footer>no</footer>"
    )
    assert html_paragraphs(file) == ["One & two", "Some bold text.", "first", "second"]


def test_pod_keeps_ordinary_paragraphs_without_codes(file: Path) -> None:
    file.write_text(
        "=head1 NAME\n\nUse C<< $x->y >> and B<I<bold> text> with L<the manual|perlre>X<index>, E<lt>here.\n\n"
        "    verbatim code\n\n=begin html\n\nno\n\n=end html\n\nThe\nlast.\n"
    )
    assert pod_paragraphs(file) == ["Use $x->y and bold text with the manual, <here.", "The last."]


def test_a_fortune_is_a_paragraph(file: Path) -> None:
    file.write_text("First\nline.\n%\nS_\bSecond\n\t-- Author\n%\n")
    assert fortunes(file) == ["First line.", "SSecond -- Author", ""]
