import pytest

from fewstep.util.errors import CorruptData, FewstepError, SettingsError, laid_at


@pytest.mark.parametrize("name", ["a\nb", "a\r\nb", "\x1b[31mred", "a\u2028b", "a\tb", "\ud800"])
def test_a_name_in_a_message_stays_in_its_line(name):
    error = CorruptData(f"{name}: damaged")
    assert str(error).isprintable() and str(error).endswith(": damaged")


def test_several_problems_are_a_line_each_and_the_first_says_where():
    with pytest.raises(SettingsError) as caught, laid_at("recipe x"):
        raise SettingsError("lr: negative", "ba\ntch: 0", hint="correct both")
    assert str(caught.value).split("\n") == ["recipe x: lr: negative", "ba\\ntch: 0"]
    assert caught.value.hint == "correct both" and isinstance(caught.value, FewstepError)
