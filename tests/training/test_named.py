"""A name with options stands as text in checkpoints and cards, and is read back as it was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from heatserve.training.named import NamedWithOptions, NamingError, parse_named


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("cifar10", "cifar10", {}),
        ("imagefolder:a b/photos?resize=64&crop=56", "imagefolder:a b/photos", {"resize": 64, "crop": 56}),
        ("timm:vit?img_size=64&act=gelu&x=0.5", "timm:vit", {"img_size": 64, "act": "gelu", "x": 0.5}),
        ("imagefolder:what?/photos", "imagefolder:what?/photos", {}),
        ("imagefolder:what?/photos?crop=8", "imagefolder:what?/photos", {"crop": 8}),
        ("a:b?on=true&off=null&list=[1]&n=NaN", "a:b", {"on": True, "off": None, "list": "[1]", "n": "NaN"}),
    ],
)
def test_reading(text: str, name: str, options: dict[str, object]) -> None:
    found = parse_named(text)
    assert (found.name, dict(found.options)) == (name, options)
    assert parse_named(str(found)) == found


@pytest.mark.parametrize("text", ["", "?a=1", "a?b=1&b=2", "a?b=1&c", "a?b=1&1c=2"])
def test_what_is_refused(text: str) -> None:
    with pytest.raises(NamingError, match="expected"):
        parse_named(text)


@given(st.dictionaries(st.from_regex("[a-z][a-z0-9_]{0,5}", fullmatch=True), st.integers() | st.booleans(), max_size=4))
def test_options_come_back_in_any_order(options: dict[str, int | bool]) -> None:
    one = NamedWithOptions("name").adding(**options)
    assert one == NamedWithOptions("name").adding(**dict(reversed(options.items())))
    assert parse_named(str(one)) == one


def test_an_option_has_one_value() -> None:
    resized = parse_named("imagefolder:x?resize=64")
    assert resized.adding(resize=64, crop=None) == resized
    with pytest.raises(NamingError, match="expected resize=32"):
        resized.adding(resize=32)
