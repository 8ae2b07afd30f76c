"""Names of at most 63 bytes, and the way back."""

from __future__ import annotations

from thermoq.gguf.names import FULL_NAME_KEY, MAX_NAME_BYTES, full_names, short_names

LONG = "up_blocks.0.attentions.1.transformer_blocks.9.attn1.to_out.0.weight"


def test_names_that_fit_stay() -> None:
    names = ["a", "x" * 63, "é" * 31]
    assert short_names(names) == {name: name for name in names}


def test_a_long_name_keeps_both_ends() -> None:
    (short,) = short_names([LONG]).values()
    assert short == "up_blocks.0.attentions.1~dfb660910fca~s.9.attn1.to_out.0.weight"
    assert short_names(["x" * 64])["x" * 64].startswith("x" * 24 + "~")


def test_all_differ_and_fit() -> None:
    stem = "a" * 40 + ".{}." + "b" * 40
    names = [stem.format(i) for i in range(200)] + ["ü" * 50, "日本" * 30, "b", LONG]
    short = short_names(names)
    assert short.keys() == set(names)
    assert len(set(short.values())) == len(names)
    assert all(len(name.encode()) <= MAX_NAME_BYTES for name in short.values())
    assert short_names(reversed(names)) == short


def test_a_name_that_is_taken() -> None:
    taken = short_names([LONG])[LONG]
    both = short_names([LONG, taken])
    assert both[taken] == taken
    assert both[LONG] != taken
    assert len(both[LONG].encode()) <= MAX_NAME_BYTES


def test_the_way_back() -> None:
    short = short_names([LONG, "b"])
    metadata = {f"{FULL_NAME_KEY}{short[LONG]}": LONG, "general.name": "x"}
    assert full_names(metadata) == {short[LONG]: LONG}
