"""Where a body ends, and what of it is passed on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moat_core.http.body import BadBody, Chunked, Length


def feed(body, data, size):
    """Feed DATA in pieces of SIZE; return what is passed on and what is left over."""
    out = b""
    for at in range(0, len(data), size):
        passed, rest = body.feed(data[at : at + size])
        out += passed
        if body.done:
            return out, rest + data[at + size :]
    return out, b""


@given(st.binary(max_size=50), st.binary(max_size=20), st.integers(1, 80))
def test_a_length_is_counted(content, after, size):
    """Whatever the pieces."""
    body = Length(len(content))
    if content:
        assert feed(body, content + after, size) == (content, after)
    assert body.done


@given(
    st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.binary(max_size=20), st.integers(1, 80), st.booleans()
)
def test_chunks_are_framed_anew(chunks, after, size, bare):
    """At every cut: the same content, ended in the same place; bare, the content alone."""
    data = b"".join(b"%04X;a=b\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"00\r\nA: b\r\n\r\n"
    body = Chunked(bare=bare)
    out, rest = feed(body, data + after, size)
    assert body.done
    assert rest == after
    if bare:
        assert out == b"".join(chunks)
    else:
        again = Chunked(bare=True)
        assert again.feed(out) == (b"".join(chunks), b"")
        assert again.done
        assert b";" not in out or any(b";" in chunk for chunk in chunks)
        assert out.endswith(b"0\r\nA: b\r\n\r\n")


BAD = {
    "blank after the size": b"3 \r\nabc\r\n0\r\n\r\n",
    "blank before it": b" 3\r\nabc\r\n0\r\n\r\n",
    "hexadecimal mark": b"0x3\r\nabc\r\n0\r\n\r\n",
    "plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "minus": b"-3\r\nabc\r\n0\r\n\r\n",
    "no size": b"\r\nabc\r\n0\r\n\r\n",
    "no size, with extension": b";a\r\nabc\r\n0\r\n\r\n",
    "17 digits": b"00000000000000003\r\nabc\r\n0\r\n\r\n",
    "bare LF after the size": b"3\nabc\r\n0\r\n\r\n",
    "bare CR after the size": b"3\rabc\r\n0\r\n\r\n",
    "bare LF after the data": b"3\r\nabc\n0\r\n\r\n",
    "no CRLF after the data": b"3\r\nabc0\r\n\r\n",
    "more data than that": b"3\r\nabcd\r\n0\r\n\r\n",
    "LF in an extension": b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "NUL in an extension": b"3;a\0b\r\nabc\r\n0\r\n\r\n",
    "long extension": b"3;" + b"a" * 5000 + b"\r\nabc\r\n0\r\n\r\n",
    "endless line": b"3;" + b"a" * 5000,
    "length as a trailer": b"0\r\nContent-Length: 3\r\n\r\n",
    "coding as a trailer": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "host as a trailer": b"0\r\nHost: a\r\n\r\n",
    "no trailer": b"0\r\nabc\r\n\r\n",
    "blank in a trailer's name": b"0\r\na b: c\r\n\r\n",
    "folded trailer": b"0\r\na: b\r\n c\r\n\r\n",
    "many trailers": b"0\r\n" + b"a: bbbbbbbbbbbbbbbbbbbb\r\n" * 500 + b"\r\n",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_what_could_be_read_in_two_ways_is_refused(data, size):
    """However it is cut."""
    with pytest.raises(BadBody):
        feed(Chunked(), data, size)


def test_odd_spellings_do_not_get_through():
    """Leading zeros, extensions and case are gone."""
    assert Chunked().feed(b'0A ; q="x"\r\n0123456789\r\n000\r\n\r\nnext') == (b"a\r\n0123456789\r\n0\r\n\r\n", b"next")
